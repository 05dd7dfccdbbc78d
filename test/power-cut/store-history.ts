/** Since when, in writes of the disk below, something was asked for and was answered. */
export interface Span {
  asked: number;
  answered: number | null;
}

interface Entry extends Span {
  value: number;
  /** number of the order */
  order: number;
}

interface Flush extends Span {
  order: number;
}

export interface BlockAt {
  /** what may be there; the first one was flushed */
  values: number[];
}

/** All that was asked of one replica and when it was answered, so that any moment can be judged. */
export class ReplicaHistory {
  readonly id: string;
  readonly sizeBlocks: number;
  readonly created: Span;
  deleted: Span | null = null;
  readonly #blocks = new Map<number, Entry[]>();
  readonly #flushes: Flush[] = [];
  readonly #epochs: (Span & { epoch: number })[] = [];

  constructor(id: string, sizeBlocks: number, created: Span) {
    this.id = id;
    this.sizeBlocks = sizeBlocks;
    this.created = created;
  }

  get blocks(): Iterable<number> {
    return this.#blocks.keys();
  }

  wrote(block: number, values: readonly number[], span: Span, order: number): void {
    values.forEach((value, i) => {
      const entries = this.#blocks.get(block + i) ?? [];
      this.#blocks.set(block + i, entries);
      entries.push(Object.assign(Object.create(span) as Span, { value, order }));
    });
  }

  flushed(span: Span, order: number): void {
    this.#flushes.push(Object.assign(Object.create(span) as Span, { order }));
  }

  fenced(span: Span, epoch: number): void {
    this.#epochs.push(Object.assign(Object.create(span) as Span, { epoch }));
  }

  /** must: the disk has it for certain; may: it may have it */
  existsAt(position: number): { must: boolean; may: boolean } {
    const { created, deleted } = this;
    return {
      must: isAnswered(created, position) && !(deleted && deleted.asked <= position),
      may: created.asked <= position && !(deleted && isAnswered(deleted, position)),
    };
  }

  /** Orders up to this one were made durable by a flush that was answered. */
  durableAt(position: number): number {
    const flush = this.#flushes.findLast((one) => isAnswered(one, position));
    return flush?.order ?? -1;
  }

  /** What a block may hold after a power cut at this position. */
  valuesAt(block: number, position: number, durable: number): number[] {
    const asked = (this.#blocks.get(block) ?? []).filter((one) => one.asked <= position);
    const from = asked.findLastIndex((one) => one.order <= durable);
    const values = asked.slice(Math.max(0, from)).map(({ value }) => value);
    return from < 0 ? [0, ...values] : values;
  }

  epochAt(position: number): number {
    const epochs = this.#epochs.filter((one) => isAnswered(one, position));
    return Math.max(0, ...epochs.map(({ epoch }) => epoch));
  }
}

function isAnswered({ answered }: Span, position: number): boolean {
  return answered !== null && answered <= position;
}
