import { StorError } from '@stor/protocol';
import { compareConnections, type ClientIdentity } from 'nbd-client-js';

/** Clients without a connection whose last one is remembered; the oldest are forgotten first. */
const maxRemembered = 16_384;

/** A connection of a client that said who it is. */
export interface IdentifiedConnection {
  /** Nothing more of it begins. */
  revoke(reason: StorError): void;
  /** Resolves when nothing of it is in a device any more. */
  readonly released: Promise<void>;
}

/**
 * Which connection of a client is its newest (DESIGN "Clients"). A connection that was cut without a
 * word, or was not read because it had too much in flight, may still hold requests that its client
 * has long sent again over a newer one; so the newer one ends the older, and an older one that comes
 * late is turned away.
 */
export class ClientRegistry {
  readonly #open = new Map<
    string,
    { identity: ClientIdentity; connection: IdentifiedConnection }
  >();
  readonly #gone = new Map<string, ClientIdentity>();

  /**
   * Notes a connection of `name`, and ends the client's older one, which is returned. NOT_FOUND when
   * a newer one has been here: this one must not be served.
   */
  enter(
    name: string,
    identity: ClientIdentity,
    connection: IdentifiedConnection,
  ): IdentifiedConnection | null {
    const key = keyOf(name, identity);
    const open = this.#open.get(key);
    const known = open?.identity ?? this.#gone.get(key);
    if (known && compareConnections(identity, known) < 0) {
      throw new StorError(
        'NOT_FOUND',
        `this client has a newer connection to ${name}: this one is not served any more`,
      );
    }
    this.#gone.delete(key);
    this.#open.set(key, { identity, connection });
    open?.connection.revoke(
      new StorError('ABORTED', 'the client has opened a newer connection, which replaces this one'),
    );
    return open?.connection ?? null;
  }

  /** The connection is over; that it was there stays known. */
  leave(name: string, identity: ClientIdentity, connection: IdentifiedConnection): void {
    const key = keyOf(name, identity);
    if (this.#open.get(key)?.connection !== connection) return;
    this.#open.delete(key);
    this.#gone.set(key, identity);
    if (this.#gone.size <= maxRemembered) return;
    for (const oldest of this.#gone.keys()) {
      this.#gone.delete(oldest);
      break;
    }
  }
}

function keyOf(name: string, identity: ClientIdentity): string {
  return `${name} ${identity.id}`;
}
