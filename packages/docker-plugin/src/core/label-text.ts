/** Characters of a label's value (see checkLabels). */
export const maxLabelValueLength = 128;

/**
 * Any ASCII text as the value of a label: what may not stand there is written as `:` and two hexadecimal
 * digits. `data=ordered` becomes `data:3Dordered`.
 */
export function labelTextOf(text: string): string {
  return text.replaceAll(
    /[^A-Za-z0-9_./-]/g,
    (letter) => `:${letter.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`,
  );
}

/** Null when nobody can have written that by `labelTextOf`. */
export function textOfLabel(value: string): string | null {
  if (!/^(?:[A-Za-z0-9_./-]|:[0-7][0-9A-F])*$/.test(value)) return null;
  return value.replaceAll(/:([0-7][0-9A-F])/g, (_all, digits: string) =>
    String.fromCharCode(parseInt(digits, 16)),
  );
}
