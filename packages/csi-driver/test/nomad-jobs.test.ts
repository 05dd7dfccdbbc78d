// The files for Nomad in deploy/, in the JSON form of its jobs and volumes, against each other and against the
// driver: nothing here runs a Nomad. The shapes have only what is used, by the names of Nomad's documentation, so
// that a misspelt key is found: Nomad itself ignores it.
import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { z } from 'zod';
import { readAccess } from '../src/core/access-modes.ts';
import { readSettings } from '../src/core/parameters.ts';
import type { AccessModeName } from '../src/messages.ts';

const folder = new URL('../../../deploy/nomad/', import.meta.url);
const guide = readFileSync(new URL('../../../docs/operating/nomad.md', import.meta.url), 'utf8');
/** Durations are counted in nanoseconds there. */
const duration = z.number().int().min(1e9).max(600e9);
const accessMode = z.enum(['single-node-writer', 'single-node-reader-only']);
const attachmentMode = z.enum(['file-system', 'block-device']);

const csiPlugin = z.strictObject({
  ID: z.string(),
  Type: z.enum(['node', 'controller', 'monolith']),
  MountDir: z.string(),
  StagePublishBaseDir: z.string(),
  HealthTimeout: duration,
});
const taskSchema = z.strictObject({
  Name: z.string(),
  Driver: z.literal('docker'),
  Config: z.strictObject({
    image: z.string().regex(/:[0-9]/, 'of one version'),
    network_mode: z.string().optional(),
    args: z.array(z.string()).default([]),
    volumes: z.array(z.string()).default([]),
  }),
  Env: z.record(z.string(), z.string()).default({}),
  CSIPluginConfig: csiPlugin.optional(),
  VolumeMounts: z
    .array(z.strictObject({ Volume: z.string(), Destination: z.string(), ReadOnly: z.boolean() }))
    .default([]),
  KillTimeout: duration.optional(),
  Resources: z.strictObject({ CPU: z.number().int(), MemoryMB: z.number().int() }),
});
const groupSchema = z.strictObject({
  Name: z.string(),
  Count: z.number().int().optional(),
  Volumes: z
    .record(
      z.string(),
      z.strictObject({
        Name: z.string(),
        Type: z.literal('csi'),
        Source: z.string(),
        ReadOnly: z.boolean(),
        AccessMode: accessMode,
        AttachmentMode: attachmentMode,
      }),
    )
    .default({}),
  Tasks: z.array(taskSchema).length(1),
});
const jobSchema = z.strictObject({
  Job: z.strictObject({
    ID: z.string(),
    Name: z.string(),
    Type: z.enum(['service', 'system']),
    Priority: z.number().int().min(1).max(100).optional(),
    Datacenters: z.array(z.string()),
    TaskGroups: z.array(groupSchema).length(1),
  }),
});
const volumeSchema = z.strictObject({
  id: z.string(),
  external_id: z.string().optional(),
  name: z.string(),
  type: z.literal('csi'),
  plugin_id: z.string(),
  capacity_min: z.string().optional(),
  capacity_max: z.string().optional(),
  capability: z
    .array(z.strictObject({ access_mode: accessMode, attachment_mode: attachmentMode }))
    .min(1),
  mount_options: z.strictObject({ fs_type: z.string() }),
  parameters: z.record(z.string(), z.string()).default({}),
});

function read<T extends z.ZodType>(name: string, schema: T): z.infer<T> {
  return schema.parse(JSON.parse(readFileSync(new URL(name, folder), 'utf8')));
}

function only<T>(items: readonly T[]): T {
  const [item] = items;
  if (item === undefined) throw new Error('there is none');
  return item;
}

const taskOf = (name: string) => only(only(read(name, jobSchema).Job.TaskGroups).Tasks);
const created = read('volume-create.json', volumeSchema);
const registered = read('volume-register.json', volumeSchema);

t.test('every file is one of these, and the guide names it', async (t) => {
  const names = ['job.json', 'plugin.json', 'volume-create.json', 'volume-register.json'];
  t.same(readdirSync(folder).sort(), names);
  for (const name of names) t.ok(guide.includes(`deploy/nomad/${name}`), name);
});

t.test('the plug-in hands the socket of the agent on', async (t) => {
  const { Type } = read('plugin.json', jobSchema).Job;
  t.equal(Type, 'system', 'on each host');
  const { Config, CSIPluginConfig: plugin } = taskOf('plugin.json');
  if (!plugin) throw new Error('it is no plug-in');
  const [host = '', inside = ''] = only(Config.volumes).split(':');
  t.ok(guide.includes(`endpoint: ${host}/csi.sock`), 'where the guide lets the agent listen');
  const [from = '', to = ''] = Config.args;
  t.match(from, `UNIX-LISTEN:${plugin.MountDir}/csi.sock,`);
  t.equal(to, `UNIX-CONNECT:${inside}/csi.sock`);
  // the paths that Nomad names are the host's, as the agent is not in the container
  const base = `/opt/nomad/data/client/csi/${plugin.Type}/${plugin.ID}`;
  t.equal(plugin.StagePublishBaseDir, base);
  t.notOk(base.startsWith(`${plugin.MountDir}/`));
  t.same([created.plugin_id, registered.plugin_id], [plugin.ID, plugin.ID]);
});

t.test('the driver takes what the volumes ask for', async (t) => {
  for (const { capability, mount_options, parameters } of [created, registered]) {
    t.doesNotThrow(() => readSettings({ ...parameters }, {}));
    for (const { access_mode, attachment_mode } of capability) {
      const mode = access_mode.toUpperCase().replaceAll('-', '_') as AccessModeName;
      const mount = { fsType: mount_options.fs_type, mountFlags: [], volumeMountGroup: '' };
      const isFile = attachment_mode === 'file-system';
      const access = readAccess({
        ...(isFile ? { mount } : { block: {} }),
        accessMode: { mode },
      });
      t.equal(access.fileSystem, isFile ? 'ext4' : null);
    }
  }
  t.equal(created.capacity_min, created.capacity_max);
  t.match(registered.external_id, /^v-[0-9a-f]{16}$/);
  t.equal(registered.capacity_min, undefined, 'it is there already');
});

t.test('the job uses the volume as that allows it', async (t) => {
  const group = only(read('job.json', jobSchema).Job.TaskGroups);
  t.equal(group.Count, 1, 'one host at a time');
  const [key, volume] = only(Object.entries(group.Volumes));
  t.equal(volume.Source, created.id);
  const asked = { access_mode: volume.AccessMode, attachment_mode: volume.AttachmentMode };
  t.same(created.capability, [asked]);
  const { VolumeMounts, Env } = only(group.Tasks);
  const mount = only(VolumeMounts);
  t.equal(mount.Volume, key);
  // the mount's root has lost+found
  t.match(Env['PGDATA'], `${mount.Destination}/`);
});
