import { StorError } from '@stor/protocol';
import { stringify } from 'yaml';
import { renderTable, type Column } from './core/table.ts';

export const outputFormats = ['table', 'wide', 'json', 'yaml', 'name'] as const;
export type OutputFormat = (typeof outputFormats)[number];

/** Anything that takes text: process.stdout, or an array in a test. */
export interface TextSink {
  write(text: string): unknown;
}

export interface PrinterOptions {
  format: OutputFormat;
  headers: boolean;
  /** ids only, one per line; nothing where there is no id to print */
  quiet: boolean;
}

interface Named {
  metadata: { id: string; name: string };
}

/** Writes results in the form that `-o`, `--no-headers` and `--quiet` ask for. */
export class Printer {
  readonly #out: TextSink;
  readonly #options: PrinterOptions;

  constructor(out: TextSink, options: PrinterOptions) {
    this.#out = out;
    this.#options = options;
  }

  get quiet(): boolean {
    return this.#options.quiet;
  }

  /** Sentences and tables, not documents or ids. */
  get forPeople(): boolean {
    return !this.#options.quiet && ['table', 'wide'].includes(this.#options.format);
  }

  get format(): OutputFormat {
    return this.#options.format;
  }

  /** A printer of the same form that writes elsewhere. */
  into(out: TextSink): Printer {
    return new Printer(out, this.#options);
  }

  /** Rows as a table; in JSON an array of the resources as they are. */
  list<Row extends Named>(rows: readonly Row[], columns: readonly Column<Row>[]): void {
    if (this.#printPlain(rows)) return;
    const { format, headers } = this.#options;
    this.#out.write(renderTable(rows, columns, { wide: format === 'wide', headers }));
  }

  /** As `list`, for things that are no resources; `idOf` is what `-q` and `-o name` print. */
  rows<Row>(
    rows: readonly Row[],
    columns: readonly Column<Row>[],
    idOf: (row: Row) => string,
  ): void {
    const { format, headers, quiet } = this.#options;
    if (quiet || format === 'name') {
      for (const row of rows) this.#out.write(`${idOf(row)}\n`);
    } else if (!this.#printDocument(rows)) {
      this.#out.write(renderTable(rows, columns, { wide: format === 'wide', headers }));
    }
  }

  /** One resource; `sheet` is its form for people. */
  one(resource: Named, sheet: string): void {
    if (this.#printPlain([resource], resource)) return;
    this.#out.write(sheet);
  }

  /** The result of a change: one sentence, or the changed resource. */
  changed(resource: Named, sentence: string): void {
    if (this.#printPlain([resource], resource)) return;
    this.#out.write(`${sentence}\n`);
  }

  /** A result that is no resource: `facts` for programs, `text` (whole lines) for people. */
  facts(facts: Readonly<Record<string, unknown>>, text: string): void {
    if (this.#printDocument(facts)) return;
    if (!this.#options.quiet) this.#out.write(text);
  }

  /** As `facts`, but the text is the answer that was asked for, so `--quiet` does not hide it. */
  answer(facts: Readonly<Record<string, unknown>>, text: string): void {
    if (this.#printDocument(facts)) return;
    this.#out.write(text);
  }

  #printPlain(rows: readonly Named[], document: unknown = rows): boolean {
    if (this.#options.quiet) {
      for (const row of rows) this.#out.write(`${row.metadata.id}\n`);
      return true;
    }
    if (this.#options.format === 'name') {
      for (const row of rows) this.#out.write(`${row.metadata.name}\n`);
      return true;
    }
    return this.#printDocument(document);
  }

  #printDocument(document: unknown): boolean {
    if (this.#options.format === 'json') {
      this.#out.write(`${JSON.stringify(document, null, 2)}\n`);
      return true;
    }
    if (this.#options.format === 'yaml') {
      // aliases (&a1 *a1) would puzzle readers that are not full YAML parsers
      this.#out.write(stringify(document, { aliasDuplicateObjects: false }));
      return true;
    }
    return false;
  }
}

/** Throws INVALID_ARGUMENT with the forms that exist. */
export function parseOutputFormat(text: string): OutputFormat {
  const format = outputFormats.find((known) => known === text);
  if (format !== undefined) return format;
  throw new StorError(
    'INVALID_ARGUMENT',
    `output form ${JSON.stringify(text)} is not known: use -o ${outputFormats.join(', ')}`,
  );
}
