import { crc32 } from '@stor/runtime';

/**
 * A running hash of everything that happens in a run: time, place, kind and bytes. Two runs of one
 * seed end with the same one, or the simulator is not deterministic.
 */
export class RunHash {
  #low = 0x811c9dc5;
  #high = 0x9e3779b9;
  events = 0;

  number(value: number): void {
    // times have fractions: their low bits count too
    const whole = Math.floor(value);
    this.#mix(whole | 0);
    this.#mix(((value - whole) * 0x40000000) | 0);
  }

  text(value: string): void {
    let code = value.length;
    for (let at = 0; at < value.length; at++) {
      code = (Math.imul(code, 31) + value.charCodeAt(at)) | 0;
    }
    this.#mix(code);
  }

  bytes(value: Uint8Array): void {
    this.#mix(value.length);
    this.#mix(crc32(value) | 0);
  }

  get digest(): string {
    const hex = (word: number): string => (word >>> 0).toString(16).padStart(8, '0');
    return `${hex(this.#high)}${hex(this.#low)}`;
  }

  #mix(word: number): void {
    this.events += 1;
    this.#low = Math.imul(this.#low ^ word, 0x01000193);
    this.#high = Math.imul((this.#high ^ this.#low) + 0x7f4a7c15, 0x85ebca6b);
    this.#high ^= this.#high >>> 13;
  }
}
