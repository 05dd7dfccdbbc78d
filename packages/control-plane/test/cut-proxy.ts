import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Test } from 'tap';

/** Carries TCP connections to a port; a test cuts them, or lets nothing pass. */
export class CutProxy {
  readonly port: number;
  readonly #sockets: Set<Socket>;
  readonly #gate: { isOpen: boolean };

  private constructor(port: number, sockets: Set<Socket>, gate: { isOpen: boolean }) {
    this.port = port;
    this.#sockets = sockets;
    this.#gate = gate;
  }

  static async open(t: Test, target: number): Promise<CutProxy> {
    const sockets = new Set<Socket>();
    const gate = { isOpen: true };
    const server: Server = createServer((client) => {
      if (!gate.isOpen) {
        client.destroy();
        return;
      }
      const remote = connect(target, '127.0.0.1');
      for (const [one, other] of [
        [client, remote],
        [remote, client],
      ] as const) {
        sockets.add(one);
        one.on('error', () => {});
        one.on('close', () => {
          sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve);
    });
    const { port } = server.address() as { port: number };
    const proxy = new CutProxy(port, sockets, gate);
    t.teardown(() => {
      proxy.cut();
      server.close();
    });
    return proxy;
  }

  /** Breaks all connections; new ones are taken. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Breaks all connections and takes none until `open`. */
  shut(): void {
    this.#gate.isOpen = false;
    this.cut();
  }

  open(): void {
    this.#gate.isOpen = true;
  }
}
