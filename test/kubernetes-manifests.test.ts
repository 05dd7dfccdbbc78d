// The manifests in deploy/ against each other and against the driver: nothing here runs a Kubernetes. The chart
// may only put values in places, so that it can be rendered here; with its defaults it is deploy/kubernetes.
// STOR_REWRITE=1 writes those anew.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { checkoutRoot } from '../benchmarks/src/harness/checkout.ts';
import { readChange, readSettings } from '../packages/csi-driver/src/core/parameters.ts';
import { defaultDriverName } from '../packages/csi-driver/src/index.ts';
import { parseYaml } from '../packages/runtime/src/index.ts';

interface Container {
  name: string;
  image: string;
  args: string[];
  ports?: { name: string; containerPort: number }[];
  readinessProbe?: { httpGet: { port: string } };
  volumeMounts: { name: string; mountPath: string }[];
}

interface PodSpec {
  serviceAccountName: string;
  containers: Container[];
  volumes: { name: string; hostPath: { path: string } }[];
}

interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string };
  spec: {
    selector: { matchLabels: object };
    template: { metadata: { labels: object }; spec: PodSpec };
  };
  roleRef: { kind: string; name: string };
  subjects: { kind: string; name: string; namespace: string }[];
  provisioner?: string;
  driver?: string;
  driverName?: string;
  parameters: Record<string, string>;
}

const chart = join(checkoutRoot(), 'deploy/helm/stor');
const plain = join(checkoutRoot(), 'deploy/kubernetes');
const values = parseYaml(readFileSync(join(chart, 'values.yaml'), 'utf8'), 'values.yaml');
const namespace = 'stor-system';
const header = `# Made of the chart (deploy/helm/stor) with its defaults: change that.\n`;

/** `{{ .Values.a.b }}` and `{{ .Release.Namespace }}`, and nothing else. */
function rendered(template: string, name: string): string {
  return template.replaceAll(/\{\{(.*?)\}\}/g, (all, inner: string) => {
    const path = /^ \.(Values|Release)((?:\.[A-Za-z]+)+) $/.exec(inner);
    if (!path) throw new Error(`${name}: ${all} is no plain value`);
    if (path[1] === 'Release' && path[2] === '.Namespace') return namespace;
    let at: unknown = path[1] === 'Values' ? values : undefined;
    for (const key of (path[2] ?? '').slice(1).split('.')) {
      at = (at as Record<string, unknown> | undefined)?.[key];
    }
    if (typeof at !== 'string' && typeof at !== 'number') throw new Error(`${name}: no ${all}`);
    return String(at);
  });
}

function manifestsOf(text: string, name: string): Manifest[] {
  return text
    .split(/^---$/m)
    .map((part) => parseYaml(part, name) as Manifest | null)
    .filter((each) => each !== null);
}

const files = readdirSync(join(chart, 'templates')).sort();
const texts = files.map((file): [string, string] => {
  const template = readFileSync(join(chart, 'templates', file), 'utf8');
  return [file, header + rendered(template, file)];
});
const optional = readdirSync(join(plain, 'optional')).map((file) =>
  readFileSync(join(plain, 'optional', file), 'utf8'),
);
const all = [...texts.map(([, text]) => text), ...optional].flatMap((text) =>
  manifestsOf(text, 'manifest'),
);
const ofKind = (kind: string): Manifest[] => all.filter((each) => each.kind === kind);
const pods = [...ofKind('DaemonSet'), ...ofKind('Deployment')];

t.test('the manifests are those of the chart', async (t) => {
  for (const [file, text] of texts) {
    const path = join(plain, file);
    if (process.env['STOR_REWRITE'] === '1') writeFileSync(path, text);
    t.equal(readFileSync(path, 'utf8'), text, file);
  }
  const known = readdirSync(plain).filter((file) => file.endsWith('.yaml'));
  t.same(known.sort(), ['namespace.yaml', ...files].sort());
  const [made] = manifestsOf(readFileSync(join(plain, 'namespace.yaml'), 'utf8'), 'namespace');
  t.match(made, { kind: 'Namespace', metadata: { name: namespace } });
});

t.test('each object has what every one has, and a name of its own', async (t) => {
  const names = all.map(({ kind, metadata }) => `${kind}/${metadata.name}`);
  t.equal(new Set(names).size, names.length);
  t.equal(names.length, 19);
  const cluster = /^(CSIDriver|ClusterRole|ClusterRoleBinding|StorageClass|Volume.*Class)$/;
  for (const { apiVersion, kind, metadata } of all) {
    t.match(apiVersion, /^([a-z.0-9]+\/)?v1$/, kind);
    t.equal(metadata.namespace, cluster.test(kind) ? undefined : namespace, kind);
  }
});

t.test('one driver, by one name', async (t) => {
  t.equal(ofKind('CSIDriver')[0]?.metadata.name, defaultDriverName);
  const named = [
    ...ofKind('StorageClass').map(({ provisioner }) => provisioner),
    ...ofKind('VolumeSnapshotClass').map(({ driver }) => driver),
    ...ofKind('VolumeAttributesClass').map(({ driverName }) => driverName),
  ];
  t.same(new Set(named), new Set([defaultDriverName]));
  t.equal(named.length, 6);
});

t.test('the driver takes the parameters of each class', async (t) => {
  for (const { metadata, parameters } of ofKind('StorageClass')) {
    t.ok(readSettings(parameters, {}).replicas > 0, metadata.name);
  }
  for (const { metadata, parameters } of ofKind('VolumeAttributesClass')) {
    t.ok(Object.keys(readChange(parameters).qos.set).length > 0, metadata.name);
  }
  const texts = [...ofKind('StorageClass'), ...ofKind('VolumeAttributesClass')];
  for (const { parameters } of texts) {
    for (const value of Object.values(parameters)) t.type(value, 'string');
  }
});

t.test('pods mount what they name, and reach the socket of the agent', async (t) => {
  const socket = `/var/lib/kubelet/plugins/${defaultDriverName}/csi.sock`;
  t.equal(pods.length, 2);
  for (const { metadata, spec } of pods) {
    const { labels } = spec.template.metadata;
    t.match(labels, spec.selector.matchLabels, metadata.name);
    const { containers, volumes } = spec.template.spec;
    t.equal(new Set(containers.map(({ name }) => name)).size, containers.length);
    const used = containers.flatMap(({ volumeMounts }) => volumeMounts.map(({ name }) => name));
    t.same(new Set(used), new Set(volumes.map(({ name }) => name)), metadata.name);
    for (const { name, args, image, volumeMounts, ports = [], readinessProbe } of containers) {
      const inside = args.find((arg) => arg.startsWith('--csi-address='))?.slice(14) ?? '';
      const mount = volumeMounts.find(({ mountPath }) => inside.startsWith(`${mountPath}/`));
      const volume = volumes.find((each) => each.name === mount?.name);
      const outside = inside.replace(mount?.mountPath ?? '', volume?.hostPath.path ?? '');
      t.equal(outside, socket, `${metadata.name} ${name}`);
      t.match(image, /^registry\.k8s\.io\/sig-storage\/[a-z-]+:v\d+\.\d+\.\d+$/);
      const port = readinessProbe?.httpGet.port;
      if (port !== undefined) t.ok(ports.some((each) => each.name === port));
    }
  }
  const registrar = pods[0]?.spec.template.spec.containers[0]?.args ?? [];
  t.ok(registrar.includes(`--kubelet-registration-path=${socket}`));
  const docs = readFileSync(join(checkoutRoot(), 'docs/operating/kubernetes.md'), 'utf8');
  t.ok(docs.includes(`endpoint: ${socket}`), 'and the document names it');
});

t.test('sidecars have the rights that they need', async (t) => {
  const accounts = ofKind('ServiceAccount').map(({ metadata }) => metadata.name);
  const roles = [...ofKind('ClusterRole'), ...ofKind('Role')];
  for (const { roleRef, subjects, metadata } of [
    ...ofKind('ClusterRoleBinding'),
    ...ofKind('RoleBinding'),
  ]) {
    const role = roles.find((each) => each.metadata.name === roleRef.name);
    t.equal(role?.kind, roleRef.kind, metadata.name);
    for (const { kind, name, namespace: where } of subjects) {
      t.equal(kind, 'ServiceAccount');
      t.ok(accounts.includes(name), name);
      t.equal(where, namespace);
    }
  }
  for (const { spec } of pods) t.ok(accounts.includes(spec.template.spec.serviceAccountName));
  const sidecars = ofKind('Deployment')[0]?.spec.template.spec.containers.map(({ name }) => name);
  const wanted = ['provisioner', 'attacher', 'resizer', 'snapshotter', 'liveness-probe'];
  t.same(sidecars, wanted);
});
