import type { Clock } from '@stor/runtime';

/** What `work` comes to, or what `late` returns or throws when it takes longer than `limitMs`. */
export async function within<T>(
  clock: Clock,
  limitMs: number,
  work: Promise<T>,
  late: () => T,
): Promise<T> {
  let cancel = (): void => {};
  const tooLate = new Promise<'late'>((resolve) => {
    cancel = clock.after(limitMs, () => {
      resolve('late');
    });
  });
  try {
    const first = await Promise.race([work.then((value) => ({ value })), tooLate]);
    return first === 'late' ? late() : first.value;
  } finally {
    cancel();
  }
}
