// Tables: columns with names that people can ask for, printed in the four forms of util-linux.
//
//   table   RANGE  SIZE ...      aligned; the last column, if it is prose, wraps within the terminal
//   pairs   RANGE="..." SIZE="..."
//   raw     RANGE SIZE ...       one blank between, blanks inside become \x20
//   json    is not a table: each command prints its own typed document
//
// On a terminal too narrow for the columns that are shown by default, those marked `narrow: 'drop'` go first, then prose
// moves to a line of its own below its row. Columns that the user named always stay.

import { err, ok, type Result } from '#base/result';
import { type Paint, paint, wrap } from './style.ts';

export type Column<Row> = {
  readonly name: string;
  readonly align: 'left' | 'right';
  readonly help: string;
  readonly text: (row: Row) => string;
  readonly paint?: (row: Row) => Paint | undefined;
  /** Prose: only as the last column; wrapped. */
  readonly prose?: boolean;
  readonly narrow?: 'drop';
  /** As in libsmartcols: at least so wide, unless the heading is wider than every cell. */
  readonly hint?: number;
};

export type TableStyle = {
  readonly form: 'table' | 'pairs' | 'raw';
  readonly headings: boolean;
  readonly colour: boolean;
  readonly width: number | undefined;
};

/**
 * "RANGE,SIZE" replaces the defaults, "+VERDICT,NODE" adds to them; case does not matter.
 * Refuses a name that no column has, with the names there are.
 */
export function pickColumns<Row>(
  spec: string | undefined,
  all: readonly Column<Row>[],
  defaults: readonly string[],
): Result<readonly Column<Row>[], string> {
  const byName = new Map(all.map((c) => [c.name, c]));
  const wanted = spec === undefined ? '' : spec.startsWith('+') ? spec.slice(1) : spec;
  const names = spec === undefined || spec.startsWith('+') ? [...defaults] : [];
  for (const part of spec === undefined ? [] : wanted.split(',')) {
    const name = part.trim().toUpperCase();
    if (!byName.has(name))
      return err(`there is no column "${part.trim()}"; there are ${all.map((c) => c.name).join(', ')}`);
    if (!names.includes(name)) names.push(name);
  }
  return ok(names.map((name) => byName.get(name) as Column<Row>)); // each was looked up above
}

/** The whole table as text, each line with its newline; "" for no rows. */
export function formatTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  style: TableStyle & { readonly chosen: boolean },
): string {
  if (style.form === 'pairs')
    return rows.map((r) => `${columns.map((c) => `${c.name}="${escapeQuotes(c.text(r))}"`).join(' ')}\n`).join('');
  if (style.form === 'raw') {
    const lines = rows.map((r) => columns.map((c) => escapeBlanks(c.text(r))));
    return [...(style.headings ? [columns.map((c) => c.name)] : []), ...lines].map((l) => `${l.join(' ')}\n`).join('');
  }
  return rows.length === 0 ? '' : formatAligned(rows, columns, style);
}

/** Prose narrower than this is no prose: better a column less. */
const PROSE_LEAST = 18;
/** Where columns had to go already, prose narrower than this moves below its row. */
const PROSE_MIN = 24;
const PROSE_INDENT = 4;

function formatAligned<Row>(
  rows: readonly Row[],
  asked: readonly Column<Row>[],
  style: TableStyle & { readonly chosen: boolean },
): string {
  let columns = asked;
  const last = asked[asked.length - 1];
  const proseOf = (cs: readonly Column<Row>[]): Column<Row> | undefined =>
    last?.prose === true ? cs[cs.length - 1] : undefined;
  let { cells, widths } = measure(rows, columns);
  const fixed = (): number =>
    widths.reduce((n, w, k) => (columns[k] === proseOf(columns) ? n : n + w + 1), 0) - (proseOf(columns) ? 0 : 1);
  const room = style.width ?? Number.POSITIVE_INFINITY;
  if (!style.chosen && fixed() + (proseOf(columns) ? PROSE_LEAST : 0) > room) {
    columns = asked.filter((c) => c.narrow !== 'drop');
    ({ cells, widths } = measure(rows, columns));
  }
  const prose = proseOf(columns);
  const least = columns === asked && !style.chosen ? PROSE_LEAST : PROSE_MIN;
  const below = prose !== undefined && fixed() + least > room;
  const plain = prose === undefined ? columns : columns.slice(0, -1);

  const line = (texts: readonly string[], row: Row | undefined): string => {
    const parts = plain.map((c, k) => {
      const text = texts[k] as string;
      const padded = c.align === 'left' ? text.padEnd(widths[k] as number) : text.padStart(widths[k] as number);
      return row === undefined ? paint(padded, 'bold', style.colour) : paint(padded, c.paint?.(row), style.colour);
    });
    if (prose === undefined) return `${trimEnd(parts.join(' '))}\n`;
    const text = texts[texts.length - 1] as string;
    if (below) {
      const head = `${trimEnd(parts.join(' '))}\n`;
      if (row === undefined || text === '') return head;
      const lines = wrap(text, Math.max(PROSE_MIN, room - PROSE_INDENT));
      return head + lines.map((l) => `${' '.repeat(PROSE_INDENT)}${l}\n`).join('');
    }
    const lines = Number.isFinite(room) ? wrap(text, room - fixed()) : [text];
    return lines
      .map(
        (l, k) =>
          `${trimEnd(`${k === 0 ? parts.join(' ') : ' '.repeat(fixed() - 1)} ${row === undefined ? paint(l, 'bold', style.colour) : l}`)}\n`,
      )
      .join('');
  };
  const head = style.headings
    ? line(
        columns.map((c) => c.name),
        undefined,
      )
    : '';
  return head + rows.map((row, k) => line(cells[k] as string[], row)).join('');
}

function measure<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): { cells: string[][]; widths: number[] } {
  // As in lsmem, columns stay as wide as their headings, printed or not.
  const cells = rows.map((row) => columns.map((c) => c.text(row)));
  const widths = columns.map((c, k) => {
    const widest = cells.reduce((w, line) => Math.max(w, (line[k] as string).length), 0);
    return widest < c.name.length ? c.name.length : Math.max(widest, c.hint ?? 0);
  });
  return { cells, widths };
}

const trimEnd = (text: string): string => text.replace(/ +$/, '');
const escapeQuotes = (text: string): string => text.replace(/["\\$`]/g, (c) => `\\x${c.charCodeAt(0).toString(16)}`);
const escapeBlanks = (text: string): string =>
  text.replace(/[ \t\\]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
