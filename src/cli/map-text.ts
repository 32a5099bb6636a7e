// The map on a terminal: a tile for each memory block, rows of tiles for each zone of a node.
//
//   colour    one character shows two pageblocks, "▀" with the upper one in front and the lower one behind: a block of
//             128 MiB is 8 characters by 4 lines
//   no colour one letter a pageblock, 8 by 8; a capital letter when something in it cannot move
//
//    0 ✗       1 ✓       2 ✗         block number and verdict: ✓ yes, ✗ no, ? maybe, o offline

import { formatSize } from '#base/format';
import type { Fill, MapBlock, MemoryMap } from '#query/index';
import type { Verdict } from '#twin/index';
import { paint, VERDICT_PAINT } from './style.ts';

export const VERDICT_GLYPH: Readonly<Record<Verdict | 'offline', string>> = {
  yes: '✓',
  no: '✗',
  maybe: '?',
  offline: 'o',
};
export const glyphOf = (b: MapBlock): string => VERDICT_GLYPH[b.verdict ?? 'offline'];

/** What each fill means, in the order of the legend. */
export const FILL_WORDS: Readonly<Record<Fill, string>> = {
  '.': 'free',
  a: 'processes (can move)',
  c: 'page cache (can move)',
  K: 'kernel (cannot move)',
  R: 'reserved at boot (cannot move)',
  b: 'balloon, not plugged',
  '?': 'no flags: not initialised, per-CPU lists, or kernel',
  x: 'poisoned',
  '-': 'no RAM, or offline',
};

/** Of the 256 colours that terminals agree on; told apart with the usual kinds of colour blindness. */
const COLOUR: Readonly<Record<Fill, number>> = {
  '.': 254,
  a: 25,
  c: 117,
  K: 166,
  R: 88,
  b: 185,
  '?': 245,
  x: 16,
  '-': 236,
};
/** Holds movable pages, and at least one that cannot move. */
const SPOILED = 215;

/** Tiles of one zone of one node side by side; a block that the kernel gives no zone stands with its neighbours. */
export type MapRow = { readonly node: number; readonly zone: string; readonly blocks: readonly MapBlock[] };

export function mapRows(map: MemoryMap): MapRow[] {
  const rows: { node: number; zone: string; blocks: MapBlock[] }[] = [];
  for (const b of map.blocks) {
    const last = rows[rows.length - 1];
    const zone = b.state === 'offline' ? 'offline' : b.zone;
    if (last !== undefined && last.node === b.node && last.zone === zone) last.blocks.push(b);
    else rows.push({ node: b.node, zone, blocks: [b] });
  }
  return rows;
}

/** Columns of a tile: the power of two nearest above the square root of its cells. */
export const tileColumns = (cells: number): number => 2 ** Math.ceil(Math.log2(cells) / 2);

export const sayRow = (row: MapRow): string => {
  const count = (verdict: Verdict): number => row.blocks.filter((b) => b.verdict === verdict).length;
  const zone = row.zone === 'none' ? 'no one zone' : row.zone;
  const judged = row.blocks.length - row.blocks.filter((b) => b.verdict === undefined).length;
  return `node ${row.node}, ${zone}${judged === 0 ? '' : `: ${count('yes')} of ${judged} would go`}`;
};

export function formatMap(map: MemoryMap, options: { colour: boolean; width: number }): string {
  const { colour, width } = options;
  const columns = tileColumns(map.pageblocksPerBlock);
  const perLine = tilesPerLine(Math.floor((width + 1) / (columns + 1)));
  let text = '';
  for (const row of mapRows(map)) {
    text += `${paint(sayRow(row), 'bold', colour)}\n`;
    for (let k = 0; k < row.blocks.length; k += perLine) {
      const tiles = row.blocks.slice(k, k + perLine);
      const heads = tiles.map((b) => {
        const head = `${b.block} ${glyphOf(b)}`
          .padEnd(columns)
          .slice(0, Math.max(columns, `${b.block} ${glyphOf(b)}`.length));
        return paint(head, b.verdict === undefined ? 'dim' : VERDICT_PAINT[b.verdict], colour);
      });
      text += `${heads.join(' ').replace(/ +$/, '')}\n`;
      const lines = tiles.map((b) => tileLines(b, columns, colour));
      for (let y = 0; y < (lines[0] as string[]).length; y++) text += `${lines.map((l) => l[y]).join(' ')}\n`;
    }
    text += '\n';
  }
  return text + legend(map, colour);
}

/** Powers of two: with blocks of 128 MiB a line is 1 or 2 GiB, and lines stand below each other as addresses do. */
const tilesPerLine = (room: number): number => Math.min(16, 2 ** Math.floor(Math.log2(Math.max(1, room))));

function tileLines(b: MapBlock, columns: number, colour: boolean): string[] {
  const lines: string[] = [];
  const step = colour ? 2 * columns : columns;
  for (let at = 0; at < b.fill.length; at += step) {
    let line = '';
    for (let x = at; x < at + columns; x++) {
      if (!colour) {
        line += letterOf(b, x);
        continue;
      }
      const lower = x + columns < b.fill.length ? x + columns : x;
      line += `\x1b[38;5;${colourOf(b, x)};48;5;${colourOf(b, lower)}m▀`;
    }
    lines.push(colour ? `${line}\x1b[0m` : line);
  }
  return lines;
}

const isStuck = (b: MapBlock, x: number): boolean => b.stuck[x] === '1';
const fillAt = (b: MapBlock, x: number): Fill => b.fill[x] as Fill; // one letter of FILLS a pageblock

function letterOf(b: MapBlock, x: number): string {
  const fill = fillAt(b, x);
  if (!isStuck(b, x)) return fill;
  return fill === '?' ? '!' : fill.toUpperCase();
}

const colourOf = (b: MapBlock, x: number): number => {
  const fill = fillAt(b, x);
  return isStuck(b, x) && fill !== 'K' && fill !== 'R' ? SPOILED : COLOUR[fill];
};

function legend(map: MemoryMap, colour: boolean): string {
  const shown = (Object.keys(FILL_WORDS) as Fill[]).filter((f) => map.bytes[f] > 0);
  const swatch = (code: number): string => `\x1b[48;5;${code}m  \x1b[0m`;
  const lines = shown.map((f) => `  ${colour ? swatch(COLOUR[f]) : f}  ${FILL_WORDS[f]}: ${formatSize(map.bytes[f])}`);
  const spoiled = colour ? `  ${swatch(SPOILED)}  can move` : '  A, C, !  as a, c, ?';
  return [
    `one ${colour ? 'half character' : 'letter'} = one pageblock of 2M, by what most of it is used for`,
    ...lines,
    `${spoiled}, but at least one page in it cannot; so it is in ${map.stuckPageblocks} pageblocks in all, K and R included`,
    `  ${VERDICT_GLYPH.yes} would go offline  ${VERDICT_GLYPH.no} would not  ${VERDICT_GLYPH.maybe} might  ${VERDICT_GLYPH.offline} is offline already`,
    '',
  ].join('\n');
}
