import { FakeHostVolumes, MemoryVolumes } from '@stor/host-attach/testing';
import { silentLogger, type Clock } from '@stor/runtime';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import { DockerVolumes } from '../src/docker-volumes.ts';
import { MountBook } from '../src/mount-book.ts';
import { PluginCalls, type PluginAnswer } from '../src/plugin-calls.ts';
import { MemoryFolders, MemoryVolumeApi } from '../src/testing/index.ts';
import { parseVolumeOptions } from '../src/core/volume-options.ts';

/** Where volumes are mounted. */
export const mountDir = '/data/docker/mounts';

/** One cluster in memory, whose hosts share its volumes. */
export class MemoryCluster {
  readonly volumes = new MemoryVolumes();
  readonly api = new MemoryVolumeApi(this.volumes);

  host(name: string): FakeHostVolumes {
    return new FakeHostVolumes(this.volumes, this.volumes.addNode(name).metadata.id);
  }
}

interface RigOptions {
  cluster?: MemoryCluster;
  name?: string;
  defaults?: Record<string, string>;
}

/** The plug-in of one host without its socket, on fake time. It can be killed and started anew. */
export class PluginRig {
  readonly cluster: MemoryCluster;
  readonly hosts: FakeHostVolumes;
  readonly files = new FaultyFiles({ seed: 1 });
  readonly folders = new MemoryFolders();
  readonly defaults: Record<string, string>;
  calls!: PluginCalls;
  #volumes!: DockerVolumes;
  #book!: MountBook;
  #clock = new FakeClock();

  private constructor({ cluster, name, defaults }: RigOptions) {
    this.cluster = cluster ?? new MemoryCluster();
    this.hosts = this.cluster.host(name ?? 'n1');
    this.defaults = defaults ?? {};
  }

  static async open(options: RigOptions = {}): Promise<PluginRig> {
    const rig = new PluginRig(options);
    await rig.start();
    return rig;
  }

  async start(): Promise<void> {
    // timers of an agent that was killed never fire
    this.#clock = new FakeClock(this.#clock.monotonicMs());
    const clock: Clock = this.#clock;
    const hosts = aliveWhile(this.hosts, () => this.#clock === clock);
    this.#book = MountBook.open({
      files: this.files.process(),
      dir: '/data/docker',
      bootId: this.files.bootId,
    });
    this.#volumes = new DockerVolumes({
      api: this.cluster.api,
      hosts,
      folders: this.folders,
      book: this.#book,
      mountDir,
      defaults: parseVolumeOptions(this.defaults),
      clock,
      logger: silentLogger,
    });
    this.calls = new PluginCalls({ volumes: this.#volumes, clock, logger: silentLogger });
    await this.#volumes.reconcile();
    await settle();
  }

  /** The agent is gone at once; another one starts. */
  async kill(): Promise<void> {
    this.files.kill();
    await this.start();
  }

  /** The agent ends while it makes its n-th change on its disk for a call. False: nobody was answered. */
  async killWithin(change: number, call: string, body: object): Promise<boolean> {
    let crashed = (): void => {};
    const crash = new Promise<null>((resolve) => {
      crashed = () => {
        this.#clock = new FakeClock(this.#clock.monotonicMs());
        resolve(null);
      };
    });
    this.files.onCrash = crashed;
    this.files.crashAfter(change, 'kill');
    const answer = await Promise.race([this.send(call, body), crash]);
    this.files.cancelCrash();
    await this.kill();
    return answer !== null && errorOf(answer) === '';
  }

  /** An orderly stop, and another start. */
  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  async stop(): Promise<void> {
    await this.calls.end();
    await settle();
    await this.#volumes.close();
  }

  /** The host has no devices, mounts and containers any more. */
  async reboot(): Promise<void> {
    this.files.powerLoss();
    await this.hosts.reboot();
    await this.start();
  }

  async advance(ms: number, stepMs = 250): Promise<void> {
    for (let passedMs = 0; passedMs < ms; passedMs += stepMs) {
      this.#clock.advance(stepMs);
      await settle();
    }
  }

  /** What dockerd gets. */
  async send(call: string, body: object): Promise<PluginAnswer> {
    const answer = await this.calls.answer(`/VolumeDriver.${call}`, JSON.stringify(body));
    answer.arrived(true);
    return answer;
  }

  /** What dockerd does not get, for it went away. */
  async lose(call: string, body: object): Promise<PluginAnswer> {
    const answer = await this.calls.answer(`/VolumeDriver.${call}`, JSON.stringify(body));
    answer.arrived(false);
    await settle();
    return answer;
  }

  /** '': it went well. */
  async error(call: string, body: object): Promise<string> {
    return errorOf(await this.send(call, body));
  }

  /** `db/c1 2` for each caller that is counted, sorted. */
  counts(): string[] {
    return this.#book.table
      .flatMap(({ name, mounts }) => [...mounts].map(([id, count]) => `${name}/${id} ${count}`))
      .sort();
  }

  /** Whether the volume is mounted for Docker. */
  isMounted(name: string): boolean {
    const device = this.hosts.list().find(({ volume }) => volume === name);
    return device?.mounts.some(({ user }) => user === 'docker') ?? false;
  }
}

/** What an agent that was killed asks for is never done. */
function aliveWhile(hosts: FakeHostVolumes, isAlive: () => boolean): FakeHostVolumes {
  return new Proxy(hosts, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key);
      if (typeof value !== 'function') return value;
      const call = value as (...args: unknown[]) => unknown;
      return (...args: unknown[]): unknown =>
        isAlive() ? call.apply(target, args) : new Promise(() => undefined);
    },
  });
}

export function errorOf({ body }: PluginAnswer): string {
  const { Err = '' } = body as { Err?: string };
  return Err;
}

/** Everything that can go on without time has gone on. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}
