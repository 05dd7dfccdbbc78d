import type { Command } from 'commander';
import { checkPolicyName, checkQos, knownQos, StorError } from '@stor/protocol';
import type { Policy } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { formatAge } from '../core/duration.ts';
import { qosText } from '../core/qos-text.ts';
import { renderSheet, type Column } from '../core/table.ts';
import { addQosOption, qosHelp, readQos, type QosOptions } from '../qos-options.ts';
import { formatTime } from '../resource-views.ts';
import { watchFlag, watchHelp, watchObjects, watchText } from '../watch-objects.ts';
import { drawn } from '../watch-views.ts';

interface ChangeOptions extends QosOptions {
  description?: string;
}

export function addPolicyCommands(program: Command, run: RunAction): void {
  const policy = program
    .command('policy')
    .description('quality of service that volumes share by the name of a policy');
  addCreate(policy, run);
  addViews(policy, run);
  addUpdate(policy, run);
  policy
    .command('rm')
    .alias('delete')
    .argument('<policy>', 'name or id')
    .description('remove a policy that no volume has')
    .addHelpText(
      'after',
      '\nIt is refused (exit 5) while volumes have it, those in the trash too.\n\nExamples:\n  storctl policy rm bronze',
    )
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        await api.removePolicy({ name }, call);
        print.facts({ name, deleted: true }, `policy ${name} removed\n`);
      }),
    );
}

function addCreate(policy: Command, run: RunAction): void {
  const create = policy
    .command('create')
    .argument('<name>', 'letters, digits, ".", "_" and "-"')
    .option('--description <text>', 'what it is for');
  addQosOption(create, 'limits, guarantees and weight of its volumes (see below)')
    .description('make a policy')
    .addHelpText(
      'after',
      `${qosHelp}

Examples:
  storctl policy create batch --qos iops=500,bps=50MiB,weight=10 --description "nightly jobs"
  storctl volume create db --size 20GiB --policy batch`,
    )
    .action(async (name: string, options: ChangeOptions, command: Command) => {
      checkPolicyName(name);
      const qos = readQos(options)?.set ?? {};
      checkQos(qos);
      const { description = '' } = options;
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const made = await api.createPolicy({ name, description, qos }, call);
        print.changed(made, `policy ${name} created: ${wishes(made)}`);
      });
    });
}

function addUpdate(policy: Command, run: RunAction): void {
  const update = policy
    .command('update')
    .argument('<policy>', 'name or id')
    .option('--description <text>', 'what it is for');
  addQosOption(update, 'what changes: iops=5000,bps=none,... or none (see below)')
    .description('change a policy; all its volumes that are in use are told at once')
    .addHelpText(
      'after',
      `${qosHelp}

A value that a volume has itself stays as it is there.

Examples:
  storctl policy update silver --qos iops=20000
  storctl policy update silver --qos burst=none,min-iops=500`,
    )
    .action(async (name: string, options: ChangeOptions, command: Command) => {
      const qos = readQos(options);
      const { description } = options;
      if (qos === null && description === undefined) {
        throw new StorError(
          'INVALID_ARGUMENT',
          'nothing to change was given: give --qos or --description',
        );
      }
      // what is wrong by itself needs no node
      if (qos) checkQos(qos.set);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const changed = await api.updatePolicy(
          {
            name,
            ...(description === undefined ? {} : { description }),
            ...(qos ? { qos: qos.set, clearQos: qos.clear } : {}),
          },
          call,
        );
        const { volumes } = changed.status;
        const users = volumes === 1 ? '1 volume has it' : `${volumes} volumes have it`;
        print.changed(
          changed,
          `policy ${changed.metadata.name} changed: ${wishes(changed)}; ${users}`,
        );
      });
    });
}

function addViews(policy: Command, run: RunAction): void {
  policy
    .command('ls')
    .alias('list')
    .option(watchFlag, watchText)
    .description('list the policies')
    .addHelpText(
      'after',
      `${watchHelp}\nExamples:\n  storctl policy ls\n  storctl policy ls -o yaml`,
    )
    .action(async ({ watch = false }: { watch?: boolean }, command: Command) =>
      run(command.optsWithGlobals(), (context) => list(context, watch), { longRunning: watch }),
    );
  policy
    .command('inspect')
    .argument('<policy>', 'name or id')
    .option(watchFlag, watchText)
    .description('show a policy')
    .addHelpText('after', `${watchHelp}\nExamples:\n  storctl policy inspect gold`)
    .action(async (name: string, { watch = false }: { watch?: boolean }, command: Command) =>
      run(command.optsWithGlobals(), (context) => inspect(context, name, watch), {
        longRunning: watch,
      }),
    );
}

async function list(context: CommandContext, isWatched: boolean): Promise<void> {
  const { api, print, call, nowMs } = context;
  const table = columns(nowMs);
  if (isWatched) {
    await watchObjects(context, {
      kind: 'policy',
      line,
      draw: (rows) => drawn(context, rows, table),
    });
    return;
  }
  const { policies } = await api.listPolicies({}, call);
  print.list(policies, table);
}

async function inspect(context: CommandContext, name: string, isWatched: boolean): Promise<void> {
  const found = await context.api.getPolicy({ name }, context.call);
  if (!isWatched) {
    context.print.one(found, sheet(found));
    return;
  }
  await watchObjects(context, {
    kind: 'policy',
    name: found.metadata.name,
    line,
    draw: ([policy]) => (policy ? sheet(policy) : `policy ${name} was removed\n`),
  });
}

function wishes({ spec }: Policy): string {
  return qosText(knownQos(spec.qos)) || 'nothing is asked for';
}

function line(policy: Policy): string {
  return `${wishes(policy)}, ${policy.status.volumes} volumes`;
}

function columns(nowMs: number): Column<Policy>[] {
  return [
    { title: 'NAME', cell: ({ metadata }) => metadata.name },
    { title: 'QOS', cell: ({ spec }) => qosText(knownQos(spec.qos)) },
    { title: 'VOLUMES', cell: ({ status }) => String(status.volumes), right: true },
    { title: 'AGE', cell: ({ metadata }) => formatAge(nowMs - metadata.createdAtMs) },
    { title: 'ID', cell: ({ metadata }) => metadata.id, wide: true },
    { title: 'DESCRIPTION', cell: ({ spec }) => spec.description, wide: true },
  ];
}

function sheet(policy: Policy): string {
  const { metadata, spec, status } = policy;
  return renderSheet([
    ['Name', metadata.name],
    ['ID', metadata.id],
    ['Description', spec.description],
    ['QoS', wishes(policy)],
    ['Volumes', String(status.volumes)],
    ['Created', formatTime(metadata.createdAtMs)],
  ]);
}
