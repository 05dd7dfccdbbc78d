import { randomBytes } from 'node:crypto';
import { Option, type Command } from 'commander';
import { StorError, formatByteSize, parseByteSize, splitSnapshotName } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import type { Column } from '../core/table.ts';
import type { NbdSession } from '../nbd-session.ts';
import { addNbdTlsOptions } from '../nbd-tls-options.ts';
import { exportOfVolume, findExport, openExport } from '../open-export.ts';
import { runLoad, type LoadResult, type LoadShape } from '../volume-load.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
/** The longest that one measurement may take (s): longer ones are a task for fio. */
const maxSeconds = 600;
/** Removal of the temporary volume goes on after Ctrl-C, but not for ever (ms). */
const removalMs = 30_000;

type What = 'read' | 'write' | 'flush' | 'all';

interface BenchOptions {
  io: What;
  seconds: string;
  size: string;
}

export function addBenchCommand(volume: Command, run: RunAction): void {
  const bench = volume
    .command('bench')
    .argument('<volume>', 'name or id, or a snapshot: db@monday')
    .addOption(
      new Option('--io <what>', 'what to measure')
        .choices(['read', 'write', 'flush', 'all'])
        .default('read'),
    )
    .option('--seconds <count>', 'how long each measurement takes', '5')
    .option('--size <size>', 'size of the temporary volume that is written', '256MiB')
    .description('measure how fast a volume answers; it is only read')
    .addHelpText(
      'after',
      `
The volume itself is never written. "write", "flush" and "all" write to a temporary volume with the same
replicas, policy and placement rules, which is filled first and deleted afterwards. Reads of what was
never written cost no disk, and what is in the page cache of a node does not either.

One client in one process measures, over TCP, with several requests in flight (QD): a server may do more
for several. "npm run bench" in a checkout compares with other servers.

Examples:
  storctl volume bench db
  storctl volume bench db --io all --seconds 10
  storctl volume bench db@monday -o json`,
    )
    .action(async (name: string, options: BenchOptions, command: Command) => {
      const seconds = parseSeconds(options.seconds);
      const sizeBytes = parseByteSize(options.size);
      if (sizeBytes < MiB) {
        throw new StorError('INVALID_ARGUMENT', '--size must be at least 1MiB');
      }
      if (options.io !== 'read' && splitSnapshotName(name) !== null) {
        throw new StorError(
          'INVALID_ARGUMENT',
          `snapshot ${name} cannot be written: use --io read`,
        );
      }
      await run(
        command.optsWithGlobals(),
        (context) => benchVolume(context, name, { io: options.io, seconds, sizeBytes }),
        { longRunning: true },
      );
    });
  addNbdTlsOptions(bench);
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (/^[0-9]+(\.[0-9]+)?$/.test(text) && seconds > 0 && seconds <= maxSeconds) return seconds;
  throw new StorError(
    'INVALID_ARGUMENT',
    `--seconds ${JSON.stringify(text)} is not valid: use more than 0 and at most ${maxSeconds}`,
  );
}

interface Plan {
  io: What;
  seconds: number;
  sizeBytes: number;
}

async function benchVolume(context: CommandContext, name: string, plan: Plan): Promise<void> {
  const { print, io } = context;
  const results: LoadResult[] = [];
  if (plan.io === 'read' || plan.io === 'all') {
    const wanted = await findExport(context, name);
    const session = await openExport(context, wanted);
    try {
      results.push(...(await measure(context, session, shapesOf('read', session), plan)));
    } finally {
      await session.close();
    }
  }
  if (plan.io !== 'read') {
    results.push(
      ...(await onTemporaryVolume(context, name, plan.sizeBytes, async (session) => {
        await fill(context, session);
        const kinds = plan.io === 'all' ? (['write', 'flush'] as const) : [plan.io];
        const shapes = kinds.flatMap((kind) => (kind === 'read' ? [] : shapesOf(kind, session)));
        return measure(context, session, shapes, plan);
      })),
    );
  }
  print.rows(results, resultColumns, (result) => result.name);
  if (print.forPeople && plan.io !== 'write') {
    io.stderr.write('reads may come from the page cache of the node that serves the volume\n');
  }
}

/** Requests are never larger than the volume. */
function shapesOf(kind: LoadShape['kind'], { sizeBytes }: NbdSession): LoadShape[] {
  const small = { kind, order: 'random', blockBytes: Math.min(4 * KiB, sizeBytes) } as const;
  const size = formatByteSize(small.blockBytes);
  if (kind === 'flush') {
    return [{ ...small, name: `${size} random write + FLUSH, QD 1`, depth: 1 }];
  }
  const blockBytes = Math.min(MiB, sizeBytes);
  return [
    { ...small, name: `${size} random ${kind}, QD 1`, depth: 1 },
    { ...small, name: `${size} random ${kind}, QD 32`, depth: 32 },
    {
      ...{ kind, order: 'sequential', blockBytes, depth: 8 },
      name: `${formatByteSize(blockBytes)} sequential ${kind}, QD 8`,
    },
  ];
}

async function measure(
  context: CommandContext,
  session: NbdSession,
  shapes: readonly LoadShape[],
  { seconds }: Plan,
): Promise<LoadResult[]> {
  const { clock, signal } = context;
  const durationMs = seconds * 1_000;
  const content = randomBytes(MiB);
  const results: LoadResult[] = [];
  for (const shape of shapes) {
    const progress = openProgress(context, shape.name, durationMs, (ms) => `${ms / 1_000} s`);
    try {
      results.push(
        await runLoad({
          ...{ session, shape, durationMs, content, clock, signal, random: Math.random },
          onProgress: (doneMs) => progress.update(doneMs),
        }),
      );
    } finally {
      progress.stop();
    }
  }
  return results;
}

/** So that no measured write is the first one of its block. */
async function fill(context: CommandContext, session: NbdSession): Promise<void> {
  const { sizeBytes } = session;
  const progress = openProgress(context, 'fill', sizeBytes, formatByteSize);
  const content = randomBytes(Math.min(MiB, sizeBytes));
  try {
    for (let offset = 0; offset < sizeBytes; offset += content.length) {
      context.signal.throwIfAborted();
      await session.write(
        offset,
        content.subarray(0, Math.min(content.length, sizeBytes - offset)),
      );
      progress.update(offset);
    }
    await session.flush();
  } finally {
    progress.stop();
  }
}

/**
 * Runs something on a new volume of the same shape, and deletes that volume for good, also after an
 * error or Ctrl-C. When even that fails, or the process is killed, its name says what it is.
 */
async function onTemporaryVolume<T>(
  context: CommandContext,
  likeName: string,
  sizeBytes: number,
  run: (session: NbdSession) => Promise<T>,
): Promise<T> {
  const { api, call, io, print } = context;
  const { metadata, spec } = await api.getVolume({ name: likeName }, call);
  const name = `bench-${randomBytes(4).toString('hex')}`;
  const remove = `storctl volume rm ${name} --keep 0 -y`;
  const created = await api.createVolume(
    {
      ...{ name, sizeBytes, replicas: spec.replicas, policy: spec.policy },
      labels: { 'bench-of': metadata.name },
      ...(spec.diskTag ? { diskTag: spec.diskTag } : {}),
      ...(spec.placement ? { placement: spec.placement } : {}),
      ...(spec.qos ? { qos: spec.qos } : {}),
      ...(spec.policyName ? { policyName: spec.policyName } : {}),
    },
    call,
  );
  let failure: unknown = null;
  if (print.forPeople) io.stderr.write(`writing to the temporary volume ${name}\n`);
  try {
    const session = await openExport(context, exportOfVolume(created));
    try {
      return await run(session);
    } finally {
      await session.close();
    }
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    try {
      // by its id: a name could be another volume's by now
      await api.deleteVolume({ name: created.metadata.id, keepMs: 0 }, { timeoutMs: removalMs });
    } catch (error) {
      io.stderr.write(`the temporary volume ${name} is still there: ${remove}\n`);
      if (failure === null) throw error;
    }
  }
}

function openProgress(
  { io, print }: CommandContext,
  label: string,
  total: number,
  format: (total: number) => string,
) {
  if (io.isTty && !print.quiet && io.progress) return io.progress(label, total, format);
  return { update: () => {}, stop: () => {} };
}

const resultColumns: Column<LoadResult>[] = [
  { title: 'WORKLOAD', cell: ({ name }) => name },
  { title: 'IOPS', cell: ({ iops }) => iops.toFixed(0), right: true },
  {
    title: 'MIB/S',
    cell: ({ bytesPerSecond }) => (bytesPerSecond / MiB).toFixed(1),
    right: true,
  },
  { title: 'P50 MS', cell: ({ p50Us }) => milliseconds(p50Us), right: true },
  { title: 'P99 MS', cell: ({ p99Us }) => milliseconds(p99Us), right: true },
  { title: 'P99.9 MS', cell: ({ p999Us }) => milliseconds(p999Us), right: true },
  { title: 'REQUESTS', cell: ({ requests }) => String(requests), right: true, wide: true },
];

function milliseconds(us: number): string {
  return (us / 1_000).toFixed(2);
}
