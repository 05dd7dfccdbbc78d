import { readFile } from 'node:fs/promises';
import { request as plainRequest } from 'node:http';
import { request as tlsRequest } from 'node:https';
import { StorError } from '@stor/protocol';
import { z } from 'zod';
import type { ClaimedVolume, PodStorage } from '../core/foreign-storage.ts';

/** Of one answer: a list of 5,000 nodes with all that they say of themselves. */
const maxBodyBytes = 64 * 1024 * 1024;

const taint = z.looseObject({ key: z.string(), value: z.string().default('') });
const nodeSchema = z.object({
  metadata: z.object({ name: z.string(), resourceVersion: z.string() }),
  spec: z.object({ taints: z.array(taint).default([]) }).default({ taints: [] }),
  status: z
    .object({ conditions: z.array(z.object({ type: z.string(), status: z.string() })).default([]) })
    .default({ conditions: [] }),
});
export type KubernetesNode = z.infer<typeof nodeSchema>;

const listOf = <T extends z.ZodType>(item: T) => z.object({ items: z.array(item) });
const nodeList = listOf(nodeSchema);
const csiNodeList = listOf(
  z.object({
    metadata: z.object({ name: z.string() }),
    spec: z.object({
      drivers: z
        .array(z.object({ name: z.string(), nodeID: z.string() }))
        .nullish()
        .transform((drivers) => drivers ?? []),
    }),
  }),
);
const attachmentList = listOf(
  z.object({ spec: z.object({ attacher: z.string(), nodeName: z.string() }) }),
);
const claimName = z.object({ claimName: z.string() });
const podList = listOf(
  z.object({
    metadata: z.object({
      namespace: z.string(),
      name: z.string(),
      ownerReferences: z.array(z.object({ kind: z.string() })).default([]),
    }),
    spec: z.object({
      volumes: z
        .array(z.looseObject({ name: z.string(), persistentVolumeClaim: claimName.optional() }))
        .default([]),
    }),
    status: z.object({ phase: z.string().default('') }).default({ phase: '' }),
  }),
);
const volumeList = listOf(
  z.object({
    spec: z.looseObject({
      claimRef: z.object({ namespace: z.string(), name: z.string() }).optional(),
      csi: z.object({ driver: z.string() }).optional(),
    }),
  }),
);
/** What a PersistentVolume says beside what it is made of. */
const volumeFields: readonly string[] = [
  ...['accessModes', 'capacity', 'claimRef', 'csi', 'mountOptions', 'nodeAffinity'],
  ...[
    'persistentVolumeReclaimPolicy',
    'storageClassName',
    'volumeAttributesClassName',
    'volumeMode',
  ],
];

export interface KubernetesClientOptions {
  /** `https://10.96.0.1:443`; without TLS on loopback only */
  server: string;
  /** of a service account; read at each call, as it is changed now and then */
  tokenFile: string;
  /** PEM: who vouches for the server; absent: those whom the host trusts */
  caFile?: string | undefined;
}

/** Few calls of the Kubernetes API. */
export class KubernetesClient {
  readonly #options: KubernetesClientOptions;

  constructor(options: KubernetesClientOptions) {
    this.#options = options;
  }

  async nodes(signal: AbortSignal): Promise<KubernetesNode[]> {
    return (await this.#get('/api/v1/nodes', nodeList, signal)).items;
  }

  /** By the node's name: what the driver has called it. */
  async nodeIds(driverName: string, signal: AbortSignal): Promise<Map<string, string>> {
    const path = '/apis/storage.k8s.io/v1/csinodes';
    const { items } = await this.#get(path, csiNodeList, signal);
    const pairs = items.flatMap(({ metadata, spec }) =>
      spec.drivers
        .filter(({ name }) => name === driverName)
        .map(({ nodeID }): [string, string] => [metadata.name, nodeID]),
    );
    return new Map(pairs);
  }

  /** Driver and node of every volume that is attached, or is to be. */
  async attachments(signal: AbortSignal): Promise<{ attacher: string; nodeName: string }[]> {
    const path = '/apis/storage.k8s.io/v1/volumeattachments';
    const { items } = await this.#get(path, attachmentList, signal);
    return items.map(({ spec }) => spec);
  }

  /** What the pods of a node have for storage. */
  async podsOf(node: string, signal: AbortSignal): Promise<PodStorage[]> {
    const selector = encodeURIComponent(`spec.nodeName=${node}`);
    const path = `/api/v1/pods?fieldSelector=${selector}`;
    const { items } = await this.#get(path, podList, signal);
    return items.map(({ metadata: { namespace, name, ownerReferences }, spec, status }) => ({
      ...{ namespace, name, phase: status.phase },
      owners: ownerReferences.map(({ kind }) => kind),
      volumes: spec.volumes.map(({ name: volume, persistentVolumeClaim: claim, ...rest }) => ({
        name: volume,
        kind: claim ? 'persistentVolumeClaim' : (Object.keys(rest)[0] ?? 'emptyDir'),
        claimName: claim?.claimName,
      })),
    }));
  }

  async persistentVolumes(signal: AbortSignal): Promise<ClaimedVolume[]> {
    const { items } = await this.#get('/api/v1/persistentvolumes', volumeList, signal);
    return items.map(({ spec }) => ({
      claim: spec.claimRef ?? null,
      source:
        spec.csi?.driver ??
        Object.keys(spec).find((key) => !volumeFields.includes(key)) ??
        'a volume of no known kind',
    }));
  }

  /** Changes the taints of a node, unless it has changed since it was read: then it is CONFLICT. */
  async setTaints(
    { metadata }: KubernetesNode,
    taints: readonly object[],
    signal: AbortSignal,
  ): Promise<void> {
    const { name, resourceVersion } = metadata;
    const changes = [
      { op: 'test', path: '/metadata/resourceVersion', value: resourceVersion },
      { op: 'add', path: '/spec/taints', value: taints },
    ];
    await this.#send('PATCH', `/api/v1/nodes/${encodeURIComponent(name)}`, changes, signal);
  }

  async #get<T extends z.ZodType>(
    path: string,
    schema: T,
    signal: AbortSignal,
  ): Promise<z.infer<T>> {
    const text = await this.#send('GET', path, null, signal);
    const parsed = schema.safeParse(jsonOf(text, path));
    if (parsed.success) return parsed.data;
    throw new StorError('PROTOCOL', `Kubernetes answers ${path} otherwise than it should`, {
      cause: parsed.error,
    });
  }

  async #send(
    method: string,
    path: string,
    body: object | null,
    signal: AbortSignal,
  ): Promise<string> {
    const { server, tokenFile, caFile } = this.#options;
    const url = new URL(path, server);
    const token = (await readFile(tokenFile, 'utf8')).trim();
    const ca = caFile === undefined ? {} : { ca: await readFile(caFile, 'utf8') };
    const headers = {
      accept: 'application/json',
      authorization: `Bearer ${token}`,
      ...(body ? { 'content-type': 'application/json-patch+json' } : {}),
    };
    const send = url.protocol === 'https:' ? tlsRequest : plainRequest;
    const { status, text } = await new Promise<{ status: number; text: string }>(
      (resolve, reject) => {
        const request = send(url, { method, headers, signal, ...ca }, (response) => {
          const parts: Buffer[] = [];
          let bytes = 0;
          response.on('data', (part: Buffer) => {
            bytes += part.length;
            parts.push(part);
            if (bytes > maxBodyBytes) response.destroy(new Error('the answer is too long'));
          });
          response.on('error', reject);
          response.on('end', () => {
            resolve({ status: response.statusCode ?? 0, text: Buffer.concat(parts).toString() });
          });
        });
        request.on('error', reject);
        request.end(body ? JSON.stringify(body) : undefined);
      },
    ).catch((cause: unknown) => {
      const { message } = cause as Error;
      throw new StorError(
        'UNAVAILABLE',
        `Kubernetes does not answer ${method} ${path}: ${message}`,
        {
          cause,
        },
      );
    });
    if (status >= 200 && status < 300) return text;
    const code = status === 409 || status === 422 ? 'CONFLICT' : 'UNAVAILABLE';
    throw new StorError(code, `Kubernetes refuses ${method} ${path}: ${status}`);
  }
}

function jsonOf(text: string, path: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new StorError('PROTOCOL', `Kubernetes answers ${path} with what is no JSON`, { cause });
  }
}
