// dimmer demo defrag: who makes large free blocks, when, and what it costs; and what deleted files leave. Two tables.

import { formatSize } from '#base/format';
import { type DefragRow, defrag, type FilesRow } from '#demo/index';
import { type Io, wantsColour, widthOf } from './io.ts';
import { type Column, formatTable } from './table.ts';

const STRATEGY_COLUMNS: readonly Column<DefragRow>[] = [
  { name: 'STRATEGY', align: 'left', help: 'who makes blocks, and when', text: (r) => r.strategy },
  { name: 'SERVED', align: 'right', help: 'requests of order 9', text: (r) => `${r.served}/${r.requests}` },
  { name: 'STALLS', align: 'right', help: 'requests that found no block', text: (r) => String(r.stalls) },
  {
    name: 'WAIT',
    align: 'right',
    help: 'pages copied while one waited, at most',
    text: (r) => r.mostWaited.toFixed(1),
  },
  { name: 'IDLE-WAIT', align: 'right', help: 'of idle work', text: (r) => r.mostIdleDelay.toFixed(2) },
  { name: 'MOVED', align: 'right', help: 'pages', text: (r) => String(r.moved) },
  { name: 'GAINED', align: 'right', help: 'blocks of order 9', text: (r) => String(r.gained) },
  { name: 'PER-BLOCK', align: 'right', help: 'pages moved for one', text: (r) => perBlock(r) },
];

const perBlock = (r: DefragRow): string => (r.gained > 0 ? (r.moved / r.gained).toFixed(0) : '-');

const HOW: Readonly<Record<FilesRow['how'], string>> = {
  plain: 'single pages',
  pool: 'a pool per file',
  'pool-told': 'a pool per file, length known',
};

const FILES_COLUMNS: readonly Column<FilesRow>[] = [
  { name: 'PAGE-CACHE', align: 'left', help: 'how files get pages', text: (r) => HOW[r.how] },
  { name: 'WRITERS', align: 'right', help: 'at one time', text: (r) => String(r.writers) },
  { name: 'LARGE', align: 'right', help: 'of free memory, in order 9 and above', text: (r) => percent(r.large) },
  { name: 'TAILS', align: 'right', help: 'reserved, at most', text: (r) => percent(r.mostTails / r.filePages) },
];

const percent = (part: number): string => `${(100 * part).toFixed(1)}%`;

/** Prints both tables, or the document of docs/formats/demo-defrag.schema.json. */
export function runDefrag(io: Io, options: { readonly json?: boolean; readonly seed?: string }): void {
  const report = defrag(options.seed === undefined ? {} : { seed: Number(options.seed) });
  if (options.json === true) {
    io.out(`${JSON.stringify({ dimmer: 'demo-defrag', version: 1, ...report }, undefined, 2)}\n`);
    return;
  }
  const size = formatSize(report.ramBytes);
  io.out(
    `Bursts of huge pages on ${size}, 70% in use and in pieces. Time is counted in page copies; a stall is a request that\n` +
      `found no block. Linux: direct compaction and kcompactd. The others: thresholds, and three sources (Hansen, Mooley 2004).\n\n`,
  );
  io.out(table(io, report.strategies, STRATEGY_COLUMNS));
  io.out(
    `\n${size} filled with files of 512K, two of each process; then each process deletes every other of its files.\n\n`,
  );
  io.out(table(io, report.files, FILES_COLUMNS));
}

const table = <Row>(io: Io, rows: readonly Row[], columns: readonly Column<Row>[]): string =>
  formatTable(rows, columns, {
    form: 'table',
    headings: true,
    colour: wantsColour(io),
    width: widthOf(io),
    chosen: false,
  });
