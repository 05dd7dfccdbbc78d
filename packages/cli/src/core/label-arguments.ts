import { StorError, checkLabels } from '@stor/protocol';

/** `k=v` sets, `k-` removes (as kubectl label does). Throws INVALID_ARGUMENT. */
export function parseLabelChanges(words: readonly string[]): {
  set: Record<string, string>;
  remove: string[];
} {
  const set: Record<string, string> = {};
  const remove: string[] = [];
  for (const word of words) {
    const equals = word.indexOf('=');
    if (equals > 0) {
      setOnce(set, word.slice(0, equals), word.slice(equals + 1));
    } else if (equals < 0 && word.endsWith('-') && word.length > 1) {
      const key = word.slice(0, -1);
      checkLabels({ [key]: '' });
      remove.push(key);
    } else {
      throw new StorError(
        'INVALID_ARGUMENT',
        `label ${JSON.stringify(word)} is not valid: write key=value to set it or key- to remove it`,
      );
    }
  }
  const both = remove.find((key) => key in set);
  if (both !== undefined) {
    throw new StorError('INVALID_ARGUMENT', `label ${both} is both set and removed: choose one`);
  }
  checkLabels(set);
  return { set, remove };
}

/** Only `k=v`: a resource that is being created has nothing to remove. Throws INVALID_ARGUMENT. */
export function parseNewLabels(words: readonly string[]): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const word of words) {
    const equals = word.indexOf('=');
    if (equals <= 0) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `label ${JSON.stringify(word)} is not valid: write --label key=value`,
      );
    }
    setOnce(labels, word.slice(0, equals), word.slice(equals + 1));
  }
  checkLabels(labels);
  return labels;
}

function setOnce(labels: Record<string, string>, key: string, value: string): void {
  if (Object.hasOwn(labels, key) && labels[key] !== value) {
    throw new StorError('INVALID_ARGUMENT', `label ${key} is given twice with different values`);
  }
  labels[key] = value;
}
