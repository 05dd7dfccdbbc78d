import { runFio } from '../../fio/fio.ts';
import { mebibyte, onClusters, writtenVolume, type QosStage } from './stage.ts';

interface Case {
  qos: string;
  options: Record<string, string>;
  /** per second, of requests or bytes */
  wanted: number;
  isBytes: boolean;
}

const kib = 1024;
const seconds = 10;
const cases: readonly Case[] = [
  ...(['500', '5000'] as const).map((iops) => ({
    qos: `iops=${iops}`,
    options: { rw: 'randwrite', bs: '4k', iodepth: '32' },
    wanted: Number(iops),
    isBytes: false,
  })),
  {
    qos: 'read-iops=3000',
    options: { rw: 'randread', bs: '4k', iodepth: '32' },
    wanted: 3_000,
    isBytes: false,
  },
  {
    qos: 'bps=20MiB',
    options: { rw: 'randwrite', bs: '4k', iodepth: '32' },
    wanted: 20 * mebibyte,
    isBytes: true,
  },
  {
    qos: 'write-bps=50MiB',
    options: { rw: 'randwrite', bs: '64k', iodepth: '16' },
    wanted: 50 * mebibyte,
    isBytes: true,
  },
  {
    qos: 'read-bps=100MiB',
    options: { rw: 'read', bs: '1m', iodepth: '8' },
    wanted: 100 * mebibyte,
    isBytes: true,
  },
  {
    // a request is a second's worth and a half
    qos: 'bps=700KiB',
    options: { rw: 'write', bs: '1m', iodepth: '2' },
    wanted: 700 * kib,
    isBytes: true,
  },
];

/** Limits at several request sizes, over 10 s. */
export async function limits(stage: QosStage): Promise<void> {
  const sizeBytes = 128 * mebibyte;
  await onClusters(stage, ['with'], 1, async ({ with: cluster }) => {
    const uri = await writtenVolume(stage, cluster, { name: 'limited', sizeBytes, replicas: 1 });
    for (const { qos, options, wanted, isBytes } of cases) {
      await cluster.must('volume', 'update', 'limited', '--qos', `none`);
      await cluster.must('volume', 'update', 'limited', '--qos', qos);
      const { read, write } = await runFio({
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
      const side = write.ios > 0 ? write : read;
      const seen = isBytes ? side.bytesPerSecond : side.iops;
      const deviation = seen / wanted - 1;
      const what = `${qos}, ${options['bs'] ?? ''} ${options['rw'] ?? ''}, depth ${options['iodepth'] ?? ''}`;
      // one request more or less may fall into the time that is looked at
      const granularity = isBytes ? bytesOf(options['bs'] ?? '') / wanted / seconds : 0;
      const value = isBytes ? `${(seen / mebibyte).toFixed(2)} MiB/s` : `${seen.toFixed(0)} IOPS`;
      stage.report.add(
        `limit over 10 s: ${what}`,
        `${value}, ${(deviation * 100).toFixed(1)} %`,
        granularity < 0.02 ? 'within 5 %' : 'within 5 % and one request',
        Math.abs(deviation) <= 0.05 + granularity,
      );
    }
  });
}

function bytesOf(blockSize: string): number {
  return parseInt(blockSize, 10) * (blockSize.endsWith('m') ? mebibyte : kib);
}
