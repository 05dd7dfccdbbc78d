import { mkdirSync } from 'node:fs';
import { runFio, type FioResult } from '../../fio/fio.ts';
import { median, shuffled } from '../../measure/statistics.ts';
import { mebibyte, onClusters, writtenVolume, type QosStage } from './stage.ts';

/** What the neighbour does, as fast as it can. */
const blasts: Record<string, Record<string, string>> = {
  '4 KiB random writes, QD 4×32': {
    ...{ rw: 'randwrite', bs: '4k', iodepth: '32', numjobs: '4' },
    group_reporting: '1',
  },
  '1 MiB writes, QD 8': { rw: 'write', bs: '1m', iodepth: '8' },
};

/** The volume with a guarantee stays below it: one request at a time, so many in a second. */
const askedIops = 1_000;

/** A volume with a guarantee beside one that takes all it can get, on the same lane. */
export async function neighbour(stage: QosStage): Promise<void> {
  for (const replicas of [1, 3]) {
    const inner = { ...stage, dir: `${stage.dir}/${replicas}` };
    await beside(inner, replicas);
  }
}

async function beside(stage: QosStage, replicas: number): Promise<void> {
  mkdirSync(stage.dir);
  const sizeBytes = 128 * mebibyte;
  const seconds = stage.quick ? 2 : 4;
  await onClusters(stage, ['with', 'without'], replicas, async (clusters) => {
    const names = ['with', 'without'] as const;
    const uris = new Map<string, { sure: string; loud: string }>();
    for (const name of names) {
      const cluster = clusters[name];
      const facts = { sizeBytes, replicas };
      const qos = 'min-iops=2000';
      const sure = await writtenVolume(stage, cluster, { ...facts, name: 'sure', qos });
      const loud = await writtenVolume(stage, cluster, { ...facts, name: 'loud' });
      uris.set(name, { sure, loud });
    }
    const kinds = ['alone', ...Object.keys(blasts)];
    const p99s = new Map<string, number[]>();
    const loudIops = new Map<string, number[]>();
    for (let round = 0; round < stage.rounds; round++) {
      for (const kind of shuffled(kinds)) {
        for (const name of shuffled(names)) {
          const { sure, loud } = uris.get(name) ?? { sure: '', loud: '' };
          const blast = blasts[kind];
          const [mine, other] = await Promise.all([
            paced(stage, sure, sizeBytes, seconds),
            blast ? blasting(stage, loud, blast, sizeBytes, seconds) : null,
          ]);
          push(p99s, `${name} ${kind}`, mine.write.p99Us);
          if (other) push(loudIops, `${name} ${kind}`, other.write.iops);
        }
      }
    }
    for (const kind of Object.keys(blasts)) {
      const ratio = (name: string): number =>
        median(p99s.get(`${name} ${kind}`) ?? []) / median(p99s.get(`${name} alone`) ?? []);
      const iops = (name: string): string =>
        median(loudIops.get(`${name} ${kind}`) ?? []).toFixed(0);
      const beneath = median(p99s.get(`with alone`) ?? []).toFixed(0);
      stage.report.add(
        `p99 with a guarantee, ${replicas} replicas, beside ${kind}`,
        `${ratio('with').toFixed(2)} × (alone ${beneath} us)`,
        '< 2 ×',
        ratio('with') < 2,
      );
      stage.report.add(
        `  without QoS it would be; the neighbour's IOPS`,
        `${ratio('without').toFixed(2)} ×; ${iops('without')}, with ${iops('with')}`,
        'for comparison',
        true,
      );
    }
  });
}

function paced(
  stage: QosStage,
  uri: string,
  sizeBytes: number,
  seconds: number,
): Promise<FioResult> {
  const options = { rw: 'randwrite', bs: '4k', iodepth: '1', rate_iops: String(askedIops) };
  // the neighbour is there before it and after it
  return run(stage, uri, { ...options, startdelay: '1' }, sizeBytes, seconds);
}

function blasting(
  stage: QosStage,
  uri: string,
  options: Record<string, string>,
  sizeBytes: number,
  seconds: number,
): Promise<FioResult> {
  return run(stage, uri, options, sizeBytes, seconds + 2);
}

async function run(
  stage: QosStage,
  uri: string,
  options: Record<string, string>,
  sizeBytes: number,
  seconds: number,
): Promise<FioResult> {
  const result = await runFio({
    uri,
    dir: stage.dir,
    options: {
      ...options,
      size: String(sizeBytes),
      time_based: '1',
      runtime: String(seconds),
      norandommap: '1',
    },
  });
  if (result.error !== 0) throw new Error(result.command.stderr);
  return result;
}

function push(map: Map<string, number[]>, key: string, value: number): void {
  map.set(key, [...(map.get(key) ?? []), value]);
}
