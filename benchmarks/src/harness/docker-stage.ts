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

  private constructor(cluster: TestCluster, engines: [DockerEngine, DockerEngine]) {
    this.cluster = cluster;
    this.engines = engines;
  }

  /** Lays out folders and configs; starts nothing. */
  static async create(): Promise<DockerStage> {
    const cluster = await TestCluster.create();
    await shareMounts(cluster.dir);
    const engineOf = (index: number): DockerEngine => {
      const engine = new DockerEngine(join(cluster.dir, `docker-${index + 1}`));
      const { configPath } = cluster.agent(index);
      const socket = join(engine.pluginDir, 'stor.sock');
      appendFileSync(configPath, `docker: { socket: ${socket}, defaults: { size: 64MiB } }\n`);
      return engine;
    };
    return new DockerStage(cluster, [engineOf(0), engineOf(1)]);
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
    if (count > was) more.push(`descriptors of agent ${index + 1}: ${was} before, ${count} now`);
  });
  return more.join('\n');
}
