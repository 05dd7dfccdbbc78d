/** One message on its way. */
export interface Packet {
  from: string;
  to: string;
  bytes: Uint8Array;
}

/** What waits is bounded: the oldest is lost. */
const maxPackets = 200;
const maxLatePackets = 100;

/**
 * A network that loses, repeats, delays and reorders, is cut in two or in one direction only, and
 * brings some messages so late that whole terms have gone by.
 */
export class SimulationNetwork {
  readonly #random: () => number;
  readonly #ids: readonly string[];
  #packets: Packet[] = [];
  #late: Packet[] = [];
  #side = new Map<string, number>();
  /** `from>to`: nothing goes that way */
  readonly #oneWay = new Set<string>();
  late = 0;

  constructor(ids: readonly string[], random: () => number) {
    this.#ids = ids;
    this.#random = random;
  }

  get waiting(): number {
    return this.#packets.length;
  }

  post(packet: Packet): void {
    this.#packets.push(packet);
    if (this.#packets.length > maxPackets) this.#packets.shift();
  }

  /** The next one that arrives; null: none, or it was lost. */
  take(): Packet | null {
    if (this.#late.length > 0 && this.#random() < 0.01) {
      this.late++;
      const at = Math.floor(this.#random() * this.#late.length);
      return this.#late.splice(at, 1)[0] ?? null;
    }
    if (this.#packets.length === 0) return null;
    // mostly in order, at times any
    const at = this.#random() < 0.7 ? 0 : Math.floor(this.#random() * this.#packets.length);
    const again = this.#random() < 0.05;
    const [packet] = again ? this.#packets.slice(at, at + 1) : this.#packets.splice(at, 1);
    if (!packet || this.#random() < 0.05) return null;
    if (this.#random() < 0.02) this.#delay(packet);
    const { from, to } = packet;
    if (this.#side.get(from) !== this.#side.get(to) || this.#oneWay.has(`${from}>${to}`)) {
      return null;
    }
    return packet;
  }

  /** A copy of it arrives once more, much later. */
  #delay(packet: Packet): void {
    this.#late.push(packet);
    if (this.#late.length > maxLatePackets) this.#late.shift();
  }

  /** In two halves by chance. */
  cut(): void {
    for (const id of this.#ids) this.#side.set(id, Math.floor(this.#random() * 2));
  }

  isolate(alone: string): void {
    for (const id of this.#ids) this.#side.set(id, id === alone ? 1 : 0);
  }

  /** Some can speak and not hear, or hear and not speak. */
  cutOneWay(): void {
    for (const from of this.#ids) {
      for (const to of this.#ids) if (this.#random() < 0.3) this.#oneWay.add(`${from}>${to}`);
    }
  }

  heal(): void {
    this.#side.clear();
    this.#oneWay.clear();
  }
}
