import {
  publicationEndedMessage,
  StorError,
  type PublicationId,
  type VolumeSettings,
} from '@stor/protocol';

interface Known extends Pick<VolumeSettings, 'resourceVersion'> {
  publications?: VolumeSettings['publications'] | undefined;
}

/** A connection, as far as it matters who may be served. */
export interface PublishedUser {
  /** the publication that it names; null: none */
  readonly publication: PublicationId | null;
  revoke(reason: StorError): void;
}

/**
 * Who is served while a volume is published (ADR 19): connections that name a publication that there is
 * still, and no others. While it is published to nobody, those that name one are not served either: a
 * host that has lost its right must not write beside whoever uses the volume now.
 */
export class PublicationGate {
  readonly #volume: string;
  #version: number;
  #publications: ReadonlyMap<PublicationId, { readOnly: boolean }>;

  constructor(volume: string, known: Known) {
    this.#volume = volume;
    this.#version = known.resourceVersion;
    this.#publications = byId(known);
  }

  /** What the record says now; what is older than what is known says nothing. */
  update(known: Known, users: Iterable<PublishedUser>): void {
    if (known.resourceVersion < this.#version) return;
    this.#version = known.resourceVersion;
    this.#publications = byId(known);
    for (const user of [...users]) {
      const reason = this.refusal(user.publication);
      if (reason) user.revoke(reason);
    }
  }

  /** Why a connection is not served; null: it is. */
  refusal(publication: PublicationId | null): StorError | null {
    if (publication === null) {
      if (this.#publications.size === 0) return null;
      return refused(
        `volume ${this.#volume} is used as a device by a host ("storctl volume inspect ${this.#volume}" says which), so that nobody else may write to it: unmount and detach it there first, or read a snapshot`,
      );
    }
    if (this.#publications.has(publication)) return null;
    return refused(publicationEndedMessage(publication, this.#volume));
  }

  isReadOnly(publication: PublicationId | null): boolean {
    return publication !== null && (this.#publications.get(publication)?.readOnly ?? true);
  }
}

function byId({ publications = [] }: Known): ReadonlyMap<PublicationId, { readOnly: boolean }> {
  return new Map(publications.map(({ id, readOnly }) => [id, { readOnly }]));
}

function refused(message: string): StorError {
  return new StorError('FAILED_PRECONDITION', message);
}
