import CliTable3 from 'cli-table3';

/** How one column of a table is made of a resource. `wide` columns show with `-o wide` only. */
export interface Column<Row> {
  title: string;
  cell: (row: Row) => string;
  right?: boolean;
  wide?: boolean;
}

const noBorder = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '',
};
const style = { 'padding-left': 0, 'padding-right': 3, head: [], border: [], compact: true };

/** Text without borders and colours, columns aligned, one line per row, no spaces at line ends. */
export function renderTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  options: { wide: boolean; headers: boolean },
): string {
  const shown = columns.filter((column) => options.wide || column.wide !== true);
  const table = new CliTable3({
    chars: noBorder,
    style,
    head: options.headers ? shown.map((column) => column.title) : [],
    colAligns: shown.map((column) => (column.right === true ? 'right' : 'left')),
  });
  for (const row of rows) table.push(shown.map((column) => oneLine(column.cell(row)) || '-'));
  return trimLines(table.toString());
}

/** `Name:  value` lines with the values under each other; empty values are left out. */
export function renderSheet(fields: readonly (readonly [string, string])[]): string {
  const table = new CliTable3({ chars: noBorder, style });
  for (const [name, value] of fields) {
    if (value !== '') table.push([`${name}:`, oneLine(value)]);
  }
  return trimLines(table.toString());
}

/** A name or message from elsewhere must not move the cursor or forge rows. */
function oneLine(text: string): string {
  // eslint would flag the control characters of a literal; the class is by Unicode category
  return text.replaceAll(/\p{Cc}/gu, ' ');
}

function trimLines(text: string): string {
  if (text === '') return '';
  return `${text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')}\n`;
}
