import type { Clock } from '@stor/runtime';
import { repeatMs } from './core/limits.ts';

type CountedCall = 'mount' | 'unmount';

interface LostAnswer {
  call: CountedCall;
  cancel: () => void;
}

/**
 * Mounts and unmounts that were counted, and whose answers did not arrive. dockerd sends such a call again,
 * and it must not be counted twice: a mount too many would never end, an unmount too many would take
 * the volume from a container that runs. After some time dockerd has given up.
 */
export class LostAnswers {
  readonly #clock: Clock;
  readonly #lost = new Map<string, LostAnswer[]>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `givenUp` is called when the call does not come again. */
  note(call: CountedCall, name: string, callerId: string, givenUp: () => void): void {
    const key = keyOf(name, callerId);
    const answer: LostAnswer = {
      call,
      cancel: this.#clock.after(repeatMs, () => {
        if (this.#remove(key, answer)) givenUp();
      }),
    };
    this.#lost.set(key, [...(this.#lost.get(key) ?? []), answer]);
  }

  /** Whether this call is the repetition of one whose answer was lost. */
  take(call: CountedCall, name: string, callerId: string): boolean {
    const key = keyOf(name, callerId);
    const answer = this.#lost.get(key)?.find((each) => each.call === call);
    return answer !== undefined && this.#remove(key, answer);
  }

  /** Mounts that dockerd has not come back for; none is known any more. */
  takeAllMounts(): { name: string; callerId: string }[] {
    const all = [...this.#lost].flatMap(([key, answers]) =>
      answers.filter(({ call }) => call === 'mount').map(() => partsOf(key)),
    );
    for (const answers of this.#lost.values()) for (const { cancel } of answers) cancel();
    this.#lost.clear();
    return all;
  }

  #remove(key: string, answer: LostAnswer): boolean {
    const known = this.#lost.get(key) ?? [];
    if (!known.includes(answer)) return false;
    answer.cancel();
    const left = known.filter((each) => each !== answer);
    if (left.length === 0) this.#lost.delete(key);
    else this.#lost.set(key, left);
    return true;
  }
}

/** No volume has a slash in its name. */
function keyOf(name: string, callerId: string): string {
  return `${name}/${callerId}`;
}

function partsOf(key: string): { name: string; callerId: string } {
  const slash = key.indexOf('/');
  return { name: key.slice(0, slash), callerId: key.slice(slash + 1) };
}
