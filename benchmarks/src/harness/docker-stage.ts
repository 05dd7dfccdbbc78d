import { appendFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { DockerEngine } from './docker-engine.ts';
import {
  clearFolder,
  loopDevicesOf,
  mountsBelow,
  processesOf,
  shareMounts,
} from './shared-folder.ts';
import { TestCluster } from './test-cluster.ts';

/** What is there on this machine because of the cluster, its engines and their containers. */
export interface Leftovers {
  mounts: string[];
  loopDevices: string[];
  processes: string[];
  /** open descriptors of each agent */
  descriptors: number[];
  publications: string[];
}

/** A cluster of real agents, of which the first two have a plug-in and a real Docker Engine each. */
export class DockerStage {
  readonly cluster: TestCluster;
  readonly engines: readonly [DockerEngine, DockerEngine];
  /** of the plug-ins */
  readonly sockets: readonly [string, string];

  private constructor(
    cluster: TestCluster,
    engines: [DockerEngine, DockerEngine],
    sockets: [string, string],
  ) {
    this.cluster = cluster;
    this.engines = engines;
    this.sockets = sockets;
  }

  /** Lays out folders and configs; starts nothing. */
  static async create(): Promise<DockerStage> {
    const cluster = await TestCluster.create();
    await shareMounts(cluster.dir);
    const [one, two] = [1, 2].map((n) => new DockerEngine(join(cluster.dir, `docker-${n}`)));
    if (!one || !two) throw new Error('two engines are wanted');
    // one is found by its socket, the other one by a spec file
    const socketOne = join(one.pluginDir, 'stor.sock');
    const socketTwo = join(cluster.agent(1).place.dir, 'run/docker.sock');
    const spec = `specFile: ${join(two.specDir, 'stor.spec')}, `;
    const defaults = 'defaults: { size: 64MiB }';
    const add = (index: number, line: string): void =>
      appendFileSync(cluster.agent(index).configPath, `${line}\n`);
    add(0, `docker: { socket: ${socketOne}, ${defaults} }`);
    add(1, `docker: { socket: ${socketTwo}, ${spec}${defaults} }`);
    return new DockerStage(cluster, [one, two], [socketOne, socketTwo]);
  }

  async start(): Promise<void> {
    await this.cluster.start();
    await this.cluster.waitFit();
    for (const engine of this.engines) {
      await engine.start();
      await engine.importBusybox();
    }
  }

  async leftovers(): Promise<Leftovers> {
    const { dir } = this.cluster;
    // `docker volume rm` moves volumes there, where their replicas stay open
    await this.cluster.api.emptyTrash({ name: '' });
    const { volumes } = await this.cluster.api.listVolumes({});
    const running = this.cluster.agents.filter(({ running }) => running);
    return {
      mounts: mountsBelow(dir),
      loopDevices: await loopDevicesOf(dir),
      processes: processesOf(dir).map(({ command }) => command),
      descriptors: running.map(({ pid }) => readdirSync(`/proc/${pid}/fd`).length),
      publications: volumes.flatMap(({ status }) => status.publications.map(({ id }) => id)),
    };
  }

  /** Ends what runs and removes the folder. Works after any failure. */
  async close(): Promise<void> {
    for (const engine of this.engines) {
      await engine.killAll().catch(() => undefined);
      await engine.stop();
    }
    await Promise.all(this.cluster.agents.map((agent) => agent.kill9()));
    await clearFolder(this.cluster.dir);
    await this.cluster.close();
  }
}

/**
 * Agents open connections to each other when they first need them: so many descriptors of one may be new. One
 * that is left of each of six volumes is more.
 */
const connectionDrift = 5;

/** What is there afterwards and was not before, as text; '' for nothing. */
export function leftBehind(before: Leftovers, after: Leftovers): string {
  const more: string[] = [];
  for (const key of ['mounts', 'loopDevices', 'processes', 'publications'] as const) {
    const known = [...before[key]];
    for (const item of after[key]) {
      const at = known.indexOf(item);
      if (at < 0) more.push(`${key}: ${item}`);
      else known.splice(at, 1);
    }
  }
  after.descriptors.forEach((count, index) => {
    const was = before.descriptors[index] ?? 0;
    if (count > was + connectionDrift)
      more.push(`descriptors of agent ${index + 1}: ${was} before, ${count} now`);
  });
  return more.join('\n');
}
