import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Test } from 'tap';

interface FakeNode {
  metadata: { name: string; resourceVersion: string };
  spec: { taints?: { key: string; value?: string; effect: string }[] };
  status: { conditions: { type: string; status: string }[] };
}

interface Change {
  op: string;
  path: string;
  value: unknown;
}

/** The few calls of the Kubernetes API that we make, over real HTTP, with its rules of conflicts. */
export class FakeKubernetes {
  readonly nodes = new Map<string, FakeNode>();
  readonly csiNodes = new Map<string, { name: string; nodeID: string }[] | null>();
  readonly attachments: { attacher: string; nodeName: string }[] = [];
  /** by node */
  readonly pods = new Map<string, object[]>();
  readonly volumes: object[] = [];
  readonly calls: string[] = [];
  readonly token = 'secret-token';
  /** what the next call is answered with */
  failNext: 'error' | 'nonsense' | null = null;
  /** so many changes are refused, as the node has changed meanwhile */
  patchConflicts = 0;
  url = '';
  #version = 1;
  #hang: (() => void) | null = null;

  static async start(t: Test): Promise<FakeKubernetes> {
    const fake = new FakeKubernetes();
    const server = createServer((request, response) => {
      fake.#answer(request, response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    fake.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    t.teardown(async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    });
    return fake;
  }

  add(name: string, nodeID: string, drivers: { name: string; nodeID: string }[] = []): void {
    this.nodes.set(name, {
      metadata: { name, resourceVersion: String(this.#version++) },
      spec: {},
      status: { conditions: [{ type: 'Ready', status: 'True' }] },
    });
    this.csiNodes.set(name, [{ name: 'csi.stor.internal', nodeID }, ...drivers]);
  }

  /** No call is answered any more; resolves when the next one has come. */
  hangNext(): Promise<void> {
    return new Promise((resolve) => {
      this.#hang = resolve;
    });
  }

  setReady(name: string, status: 'True' | 'False' | 'Unknown'): void {
    const node = this.nodes.get(name);
    if (!node) return;
    node.status.conditions = [
      { type: 'MemoryPressure', status: 'False' },
      { type: 'Ready', status },
    ];
    node.metadata.resourceVersion = String(this.#version++);
  }

  taints(name: string): string[] {
    const taints = this.nodes.get(name)?.spec.taints ?? [];
    return taints.map(({ key, value = '', effect }) => `${key}=${value}:${effect}`);
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { method = '', url = '' } = request;
    this.calls.push(`${method} ${url}`);
    const failure = this.failNext;
    this.failNext = null;
    if (this.#hang) {
      this.#hang();
      return;
    }
    const reply = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(typeof body === 'string' ? body : JSON.stringify(body));
    };
    if (request.headers.authorization !== `Bearer ${this.token}`) reply(401, {});
    else if (failure === 'error') reply(500, { message: 'etcd is away' });
    else if (failure === 'nonsense') reply(200, '<html>');
    else if (method === 'PATCH' && this.patchConflicts-- > 0) reply(409, {});
    else if (method === 'PATCH') this.#patch(request, url, reply);
    else reply(200, { items: this.#list(url) });
  }

  #list(url: string): unknown[] {
    if (url === '/api/v1/nodes') return [...this.nodes.values()];
    if (url === '/apis/storage.k8s.io/v1/csinodes') {
      return [...this.csiNodes].map(([name, drivers]) => ({
        metadata: { name },
        spec: { drivers },
      }));
    }
    if (url === '/apis/storage.k8s.io/v1/volumeattachments') {
      return this.attachments.map((spec) => ({ spec }));
    }
    if (url === '/api/v1/persistentvolumes') return this.volumes;
    const ofNode = /^\/api\/v1\/pods\?fieldSelector=spec.nodeName%3D(.+)$/.exec(url);
    if (ofNode) return this.pods.get(ofNode[1] ?? '') ?? [];
    throw new Error(`nobody asks for ${url}`);
  }

  #patch(
    request: IncomingMessage,
    url: string,
    reply: (status: number, body: unknown) => void,
  ): void {
    let text = '';
    request.on('data', (part: Buffer) => {
      text += part.toString();
    });
    request.on('end', () => {
      const node = this.nodes.get(decodeURIComponent(url.split('/').at(-1) ?? ''));
      const [test, add] = JSON.parse(text) as Change[];
      const isJsonPatch = request.headers['content-type'] === 'application/json-patch+json';
      if (!node || !isJsonPatch || test?.op !== 'test' || add?.path !== '/spec/taints') {
        reply(400, {});
      } else if (test.value !== node.metadata.resourceVersion) {
        reply(422, {});
      } else {
        node.spec.taints = add.value as NonNullable<FakeNode['spec']['taints']>;
        node.metadata.resourceVersion = String(this.#version++);
        reply(200, node);
      }
    });
  }
}
