import { DirectoryLockedError, type DirectoryLock } from '../directory-lock.ts';
import type { Files, OpenFile } from '../files.ts';
import { FaultyContent } from './faulty-file.ts';
import { fault, FaultyOpenFile, type PooledCall } from './faulty-open-file.ts';
import { SeededRandom } from './seeded-random.ts';

export type FaultyOperation =
  | 'open'
  | 'create'
  | 'read'
  | 'write'
  | 'datasync'
  | 'truncate'
  | 'punch'
  | 'rename'
  | 'remove'
  | 'makeDirectory'
  | 'removeDirectory'
  | 'syncDirectory';

/** Returns an error code (EIO, ENOSPC) that the operation shall fail with, or null. */
export type FaultHook = (operation: FaultyOperation, path: string) => string | null;

interface FileNode {
  kind: 'file';
  content: FaultyContent;
}
interface DirectoryNode {
  kind: 'directory';
  now: Map<string, Node>;
  durable: Map<string, Node>;
  /** changes of names since the last sync; each is lost or kept as one */
  unsynced: Map<string, Node | null>[];
}
type Node = FileNode | DirectoryNode;

function newDirectory(): DirectoryNode {
  return { kind: 'directory', now: new Map(), durable: new Map(), unsynced: [] };
}

export interface FaultyFilesOptions {
  seed: number;
  /** ENOSPC beyond this @default none */
  capacityBytes?: number;
  /** holes can be punched @default false */
  punches?: boolean;
}

/**
 * A file system in memory that outlives the processes using it. `process()` is what one process
 * sees; `kill` ends that process (what it wrote stays in the page cache), `powerLoss` the host
 * (what was not synced is lost in part, in any order, torn at 512 bytes; names not synced too).
 * A crash can also be set for the n-th operation from now. All chance comes from the seed.
 */
export class FaultyFiles {
  /** counts every operation that changes something */
  operations = 0;
  /** faults of single operations */
  hook: FaultHook = () => null;
  /** changes at each power loss, as /proc/sys/kernel/random/boot_id does */
  bootId = 'boot-0';
  mountIdentity = 'mount-0';
  capacityBytes: number;
  readonly punches: boolean;
  /** called when a crash that was set has happened */
  onCrash: () => void = () => {};
  /** Runs a step of a call in the pool later; a simulator gives it virtual time. */
  defer: (step: () => void, operation: PooledCall['operation']) => void = (step) => {
    setImmediate(step);
  };

  readonly #random: SeededRandom;
  readonly #root = newDirectory();
  readonly #locks = new Map<string, number>();
  #process = 0;
  #crash: { at: number; kind: 'kill' | 'power' } | null = null;
  #inFlight = new Set<PooledCall>();

  constructor(options: FaultyFilesOptions) {
    this.#random = new SeededRandom(options.seed);
    this.capacityBytes = options.capacityBytes ?? Infinity;
    this.punches = options.punches ?? false;
  }

  /** The file system as the running process sees it; dead for good after the next crash. */
  process(): Files {
    return new FaultyProcess(this, this.#process);
  }

  /** Ends the process when it makes its n-th changing operation from now; that one in part. */
  crashAfter(operations: number, kind: 'kill' | 'power'): void {
    this.#crash = { at: this.operations + operations, kind };
  }

  get crashPending(): boolean {
    return this.#crash !== null;
  }

  cancelCrash(): void {
    this.#crash = null;
  }

  kill(): void {
    this.#crash = null;
    this.#process += 1;
    for (const call of this.#inFlight) call.killed(this.#random.next());
    this.#inFlight.clear();
    this.#locks.clear();
  }

  powerLoss(): void {
    this.kill();
    this.bootId = `boot-${this.#process}`;
    this.#loseNames(this.#root);
    this.#forEachFile(this.#root, (file) => {
      file.content.powerLoss(this.#random);
    });
  }

  /** For tests of damage. */
  content(path: string): FaultyContent {
    const node = this.find(path);
    if (node?.kind !== 'file') throw fault('ENOENT', 'content', path);
    return node.content;
  }

  // What follows is for FaultyProcess.

  isAlive(process: number): boolean {
    return process === this.#process;
  }

  /** Counts a changing operation. Throws when it is made to fail, or the process ends here. */
  enter(operation: FaultyOperation, path: string, partly?: (share: number) => void): void {
    const code = this.hook(operation, path);
    this.operations += 1;
    if (this.#crash && this.operations >= this.#crash.at) {
      const { kind } = this.#crash;
      partly?.(this.#random.next());
      if (kind === 'kill') this.kill();
      else this.powerLoss();
      this.onCrash();
      throw fault('ECRASHED', operation, path);
    }
    if (code !== null) throw fault(code, operation, path);
  }

  /** Runs a pooled call in a later turn, at a time of its own, in two steps. */
  later(call: PooledCall): void {
    this.#inFlight.add(call);
    const hops = Math.floor(this.#random.next() * 4);
    this.#hop(call, hops, this.#random.next());
  }

  #hop(call: PooledCall, hops: number, share: number): void {
    this.defer(() => {
      if (!this.#inFlight.has(call)) return;
      if (hops > 0) {
        if (hops === 1) call.partly(share);
        this.#hop(call, hops - 1, share);
        return;
      }
      this.#inFlight.delete(call);
      call.finish();
    }, call.operation);
  }

  find(path: string): Node | null {
    let node: Node = this.#root;
    for (const name of namesOf(path)) {
      const next: Node | undefined = node.kind === 'directory' ? node.now.get(name) : undefined;
      if (!next) return null;
      node = next;
    }
    return node;
  }

  directory(path: string): DirectoryNode {
    const node = this.find(path);
    if (node?.kind !== 'directory') throw fault('ENOENT', 'directory', path);
    return node;
  }

  /** Changes names of one directory, as one step. */
  change(path: string, changes: Map<string, Node | null>): void {
    const directory = this.directory(path);
    for (const [name, node] of changes) {
      if (node) directory.now.set(name, node);
      else directory.now.delete(name);
    }
    directory.unsynced.push(changes);
  }

  /** Takes room for new pages, or throws ENOSPC. */
  claim(pages: number, path: string): void {
    if (pages === 0 || this.capacityBytes === Infinity) return;
    if (this.usedBytes() + pages * 4096 > this.capacityBytes) throw fault('ENOSPC', 'write', path);
  }

  usedBytes(): number {
    let pages = 0;
    this.#forEachFile(this.#root, (file) => {
      pages += file.content.pageCount;
    });
    return pages * 4096;
  }

  lock(path: string, process: number): DirectoryLock {
    if (this.#locks.has(path)) throw new DirectoryLockedError(path, this.#locks.get(path) ?? 0);
    this.#locks.set(path, process);
    return {
      release: () => {
        if (this.isAlive(process)) this.#locks.delete(path);
        return Promise.resolve();
      },
    };
  }

  #loseNames(directory: DirectoryNode): void {
    const kept = new Map(directory.durable);
    for (const changes of directory.unsynced) {
      if (this.#random.next() < 0.5) continue;
      for (const [name, node] of changes) {
        if (node) kept.set(name, node);
        else kept.delete(name);
      }
    }
    directory.now = kept;
    directory.durable = new Map(kept);
    directory.unsynced = [];
    for (const node of kept.values()) if (node.kind === 'directory') this.#loseNames(node);
  }

  #forEachFile(directory: DirectoryNode, visit: (file: FileNode) => void): void {
    for (const node of directory.now.values()) {
      if (node.kind === 'file') visit(node);
      else this.#forEachFile(node, visit);
    }
  }
}

function namesOf(path: string): string[] {
  return path.split('/').filter((name) => name !== '');
}

function split(path: string): { parent: string; name: string } {
  const names = namesOf(path);
  const name = names.pop() ?? '';
  return { parent: `/${names.join('/')}`, name };
}

class FaultyProcess implements Files {
  readonly #world: FaultyFiles;
  readonly #process: number;

  constructor(world: FaultyFiles, process: number) {
    this.#world = world;
    this.#process = process;
  }

  #enter(operation: FaultyOperation, path: string): void {
    this.#alive(path);
    this.#world.enter(operation, path);
  }

  #alive(path: string): void {
    if (!this.#world.isAlive(this.#process)) throw fault('ECRASHED', 'use', path);
  }

  open(file: string): OpenFile {
    this.#alive(file);
    const code = this.#world.hook('open', file);
    if (code !== null) throw fault(code, 'open', file);
    const node = this.#world.find(file);
    if (node?.kind !== 'file') throw fault('ENOENT', 'open', file);
    return new FaultyOpenFile(this.#world, this.#process, file, node.content);
  }

  create(file: string): OpenFile {
    this.#enter('create', file);
    if (this.#world.find(file)) throw fault('EEXIST', 'create', file);
    const { parent, name } = split(file);
    const content = new FaultyContent();
    this.#world.change(parent, new Map([[name, { kind: 'file' as const, content }]]));
    return new FaultyOpenFile(this.#world, this.#process, file, content);
  }

  exists(file: string): boolean {
    this.#alive(file);
    return this.#world.find(file) !== null;
  }

  list(directory: string): string[] {
    this.#alive(directory);
    return [...this.#world.directory(directory).now.keys()].sort();
  }

  makeDirectory(directory: string): void {
    this.#enter('makeDirectory', directory);
    let at = '';
    for (const name of namesOf(directory)) {
      const parent = at;
      at = `${at}/${name}`;
      if (!this.#world.find(at)) this.#world.change(parent, new Map([[name, newDirectory()]]));
    }
  }

  rename(from: string, to: string): void {
    this.#enter('rename', from);
    const source = split(from);
    const target = split(to);
    if (source.parent !== target.parent) throw fault('EXDEV', 'rename', from);
    const node = this.#world.find(from);
    if (!node) throw fault('ENOENT', 'rename', from);
    const changes = new Map<string, Node | null>([
      [source.name, null],
      [target.name, node],
    ]);
    this.#world.change(source.parent, changes);
  }

  remove(file: string): void {
    this.#enter('remove', file);
    const { parent, name } = split(file);
    if (this.#world.find(file)) this.#world.change(parent, new Map([[name, null]]));
  }

  removeDirectory(directory: string): void {
    this.#enter('removeDirectory', directory);
    if (this.#world.directory(directory).now.size > 0) {
      throw fault('ENOTEMPTY', 'removeDirectory', directory);
    }
    const { parent, name } = split(directory);
    this.#world.change(parent, new Map([[name, null]]));
  }

  syncDirectory(directory: string): void {
    this.#enter('syncDirectory', directory);
    const node = this.#world.directory(directory);
    node.durable = new Map(node.now);
    node.unsynced = [];
  }

  space(): { totalBytes: number; freeBytes: number } {
    this.#alive('/');
    const total = Math.min(this.#world.capacityBytes, 2 ** 40);
    return { totalBytes: total, freeBytes: Math.max(0, total - this.#world.usedBytes()) };
  }

  mountIdentity(): string {
    return this.#world.mountIdentity;
  }

  async lock(directory: string): Promise<DirectoryLock> {
    this.#alive(directory);
    return this.#world.lock(directory, this.#process);
  }
}
