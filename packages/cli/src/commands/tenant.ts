import type { Command } from 'commander';
import { checkTenantName, checkTenantQos, knownQos, StorError } from '@stor/protocol';
import type { Tenant } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { formatAge } from '../core/duration.ts';
import { qosText } from '../core/qos-text.ts';
import { renderSheet, type Column } from '../core/table.ts';
import { addQosOption, readQos, type QosOptions } from '../qos-options.ts';
import { formatTime } from '../resource-views.ts';

export function addTenantCommands(program: Command, run: RunAction): void {
  const tenant = program
    .command('tenant')
    .description('limits that all volumes with one value of the label "tenant" have together');
  addSet(tenant, run);
  tenant
    .command('ls')
    .alias('list')
    .description('list the tenants that have limits')
    .addHelpText('after', '\nExamples:\n  storctl tenant ls\n  storctl tenant ls -o yaml')
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call, nowMs }) => {
        const { tenants } = await api.listTenants({}, call);
        print.list(tenants, columns(nowMs));
      }),
    );
  tenant
    .command('inspect')
    .argument('<tenant>', 'value of the label, or id')
    .description('show the limits of a tenant, and how they are divided among nodes')
    .addHelpText('after', '\nExamples:\n  storctl tenant inspect acme')
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const found = await api.getTenant({ name }, call);
        print.one(found, sheet(found));
      }),
    );
  tenant
    .command('rm')
    .alias('delete')
    .argument('<tenant>', 'value of the label, or id')
    .description('remove the limits of a tenant; its volumes stay')
    .addHelpText('after', '\nExamples:\n  storctl tenant rm acme')
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        await api.removeTenant({ name }, call);
        print.facts({ name, deleted: true }, `tenant ${name} has no limits any more\n`);
      }),
    );
}

function addSet(tenant: Command, run: RunAction): void {
  const set = tenant.command('set').argument('<tenant>', 'value of the label "tenant" of volumes');
  addQosOption(set, 'iops=20k,bps=1GiB,read-iops=…,burst=2x/30s; none takes one, or all, back')
    .description(
      'set or change limits that the volumes of a tenant share, wherever they are attached',
    )
    .addHelpText(
      'after',
      `
A volume belongs to the tenant that its label "tenant" names. Its own limits hold too. What a node may use is
a part of the limits; "storctl tenant inspect" shows it.

Examples:
  storctl tenant set acme --qos iops=20k,bps=1GiB
  storctl volume create db --size 20GiB --label tenant=acme
  storctl tenant set acme --qos bps=none`,
    )
    .action(async (name: string, options: QosOptions, command: Command) => {
      checkTenantName(name);
      const qos = readQos(options);
      if (!qos) throw new StorError('INVALID_ARGUMENT', 'nothing to change was given: give --qos');
      checkTenantQos(qos.set);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const changed = await api.setTenant({ name, qos: qos.set, clearQos: qos.clear }, call);
        const { volumes } = changed.status;
        print.changed(
          changed,
          `tenant ${changed.metadata.name}: ${limits(changed)} for ${volumes === 1 ? '1 volume' : `${volumes} volumes`}`,
        );
      });
    });
}

function limits({ spec }: Tenant): string {
  return qosText(knownQos(spec.qos)) || 'no limits';
}

/** `n1 49.5%, n2 49.5%` */
function sharesText({ status }: Tenant): string {
  return status.nodes.map(({ node, parts }) => `${node} ${parts / 100}%`).join(', ');
}

function columns(nowMs: number): Column<Tenant>[] {
  return [
    { title: 'NAME', cell: ({ metadata }) => metadata.name },
    { title: 'LIMITS', cell: limits },
    { title: 'VOLUMES', cell: ({ status }) => String(status.volumes), right: true },
    { title: 'NODES', cell: sharesText },
    { title: 'AGE', cell: ({ metadata }) => formatAge(nowMs - metadata.createdAtMs) },
    { title: 'ID', cell: ({ metadata }) => metadata.id, wide: true },
  ];
}

function sheet(tenant: Tenant): string {
  const { metadata, status } = tenant;
  return renderSheet([
    ['Name', metadata.name],
    ['ID', metadata.id],
    ['Limits', limits(tenant)],
    ['Volumes', String(status.volumes)],
    ['Nodes', sharesText(tenant) || 'none (attached nowhere)'],
    ['Created', formatTime(metadata.createdAtMs)],
  ]);
}
