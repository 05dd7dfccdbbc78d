import { StorError } from '@stor/protocol';
import type { Bind, BindOrder, HostBinds } from '../host-binds.ts';

type BindCall = 'bind' | 'unbind' | 'setGroup';

/** Bind mounts of a host in memory, with the answers and errors of the real ones. */
export class FakeHostBinds implements HostBinds {
  /** what was set: folder and group */
  readonly groups = new Map<string, number>();
  readonly #binds = new Map<string, BindOrder>();
  /** targets that are there without a mount, with what they are */
  readonly #left = new Map<string, 'empty' | 'full'>();
  readonly #links = new Map<string, string>();
  readonly #failures = new Map<BindCall, StorError[]>();
  readonly #foreign = new Set<string>();

  /** The next such call fails with it, having done nothing. */
  failNext(call: BindCall, error: StorError): void {
    this.#failures.set(call, [...(this.#failures.get(call) ?? []), error]);
  }

  /** A link: paths below `from` are really below `to`. */
  link(from: string, to: string): void {
    this.#links.set(from, to);
  }

  /** Something that is not ours is mounted there. */
  mountForeign(target: string): void {
    this.#foreign.add(target);
  }

  /** A file or folder that is there without being a mount. */
  leave(target: string, what: 'empty' | 'full'): void {
    this.#left.set(target, what);
  }

  /** Whether there is anything at all at a path. */
  exists(target: string): boolean {
    return this.#binds.has(target) || this.#left.has(target) || this.#foreign.has(target);
  }

  get all(): readonly BindOrder[] {
    return [...this.#binds.values()];
  }

  async real(path: string): Promise<string> {
    for (const [from, to] of this.#links) {
      if (path === from || path.startsWith(`${from}/`)) return `${to}${path.slice(from.length)}`;
    }
    return path;
  }

  async of(source: string, kind: BindOrder['kind']): Promise<Bind[]> {
    return this.all
      .filter((each) => each.source === source && each.kind === kind)
      .map(({ target, readOnly }) => ({ target, readOnly: kind === 'folder' && readOnly }));
  }

  async bind(order: BindOrder, signal: AbortSignal): Promise<void> {
    this.#begin('bind', signal);
    const { source, kind, target, readOnly } = order;
    const present = this.#binds.get(target);
    const isSame =
      present?.source === source && (kind === 'device' || present.readOnly === readOnly);
    if (isSame) return;
    if (present || this.#foreign.has(target)) {
      throw new StorError('ALREADY_EXISTS', `${target} is a mount already`);
    }
    if (kind === 'device' && this.#left.get(target) === 'full') {
      throw new StorError('FAILED_PRECONDITION', `${target} is no empty file`);
    }
    this.#left.delete(target);
    this.#binds.set(target, { ...order });
  }

  async unbind(target: string, signal: AbortSignal): Promise<void> {
    this.#begin('unbind', signal);
    this.#binds.delete(target);
    this.#foreign.delete(target);
    if (this.#left.get(target) === 'full') {
      throw new StorError('FAILED_PRECONDITION', `${target} is no empty file or folder`);
    }
    this.#left.delete(target);
  }

  async isMounted(target: string): Promise<boolean> {
    return this.#binds.has(target) || this.#foreign.has(target);
  }

  async setGroup(folder: string, gid: number, signal: AbortSignal): Promise<void> {
    this.#begin('setGroup', signal);
    this.groups.set(folder, gid);
  }

  #begin(call: BindCall, signal: AbortSignal): void {
    if (signal.aborted) throw new StorError('ABORTED', `${call} was aborted`);
    const [error, ...rest] = this.#failures.get(call) ?? [];
    this.#failures.set(call, rest);
    if (error) throw error;
  }
}
