import { parse, stringify } from 'yaml';

/** Parses YAML; the error names the file and the line. */
export function parseYaml(text: string, path: string): unknown {
  try {
    return parse(text) as unknown;
  } catch (error) {
    throw new Error(`${path} is not valid YAML: ${(error as Error).message}`, { cause: error });
  }
}

export function formatYaml(value: unknown): string {
  return stringify(value);
}
