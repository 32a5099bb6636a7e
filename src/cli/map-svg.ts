// The map as an SVG: a tile for each memory block, one cell a pageblock, verdicts as sign and colour, and a legend.
//
//   title
//   node 1, Normal: 10 of 12 would go
//   ┌ 32 ✗ ┐ ┌ 33 ✗ ┐ ┌ 34 ✓ ┐ ...            colour: what most of the pageblock is used for; pale: little of it
//   │▒▒▒▓▓▒│ │      │ │      │                stroke: at least one page in it cannot move
//   legend
//
// No script, no font, no link: it shows the same in a README, a browser and a report. Readable without colour: strokes
// mark what cannot move, hatching what is not there, ✓ ✗ ? the verdicts. Title and description are for screen readers,
// each tile has a tooltip. Colours follow Okabe and Ito, which colour-blind people can tell apart.

import { formatSize } from '#base/format';
import type { Fill, MapBlock, MemoryMap } from '#query/index';
import { FILL_WORDS, glyphOf, type MapRow, mapRows, sayRow, tileColumns } from './map-text.ts';

const COLOUR: Readonly<Record<Fill, string>> = {
  '.': '#edf1f4',
  a: '#0072b2',
  c: '#56b4e9',
  K: '#d55e00',
  R: '#8c2d04',
  b: '#f0e442',
  '?': '#9aa5ad',
  x: '#000000',
  '-': 'url(#none)',
};
const VERDICT_COLOUR = { yes: '#00785a', no: '#b3261e', maybe: '#8a6100', offline: '#5c6770' } as const;

const WIDTH = 960;
const MARGIN = 28;
/** Cells smaller than this are dust. */
const CELL_MIN = 3;
const GAP = 10;
const LABEL = 17;
/** Width of a letter of a heading, in the widest of the usual fonts. */
const LABEL_EM = 7.9;

/** Paleness of a cell by the share of it that is in use: steps that one sees. */
const OPACITY = [0.35, 0.5, 0.65, 0.8, 1] as const;
const stepOf = (used: number): number => Math.min(4, Math.floor(used / 2));

export function mapSvg(map: MemoryMap): string {
  const columns = tileColumns(map.pageblocksPerBlock);
  // Powers of two, so that lines stand below each other as addresses do; tiles fill the width.
  const perLine = Math.max(
    1,
    Math.min(16, 2 ** Math.floor(Math.log2((WIDTH - 2 * MARGIN) / (columns * CELL_MIN + GAP)))),
  );
  const tileWidth = (WIDTH - 2 * MARGIN + GAP) / perLine - GAP;
  const cell = tileWidth / columns;
  const tileHeight = cell * Math.ceil(map.pageblocksPerBlock / columns);

  let y = 92;
  let body = '';
  for (const run of packRows(mapRows(map), perLine)) {
    body += runLabels(run, { y: y + 12, pitch: tileWidth + GAP });
    y += 20;
    for (let k = 0; k < run.blocks.length; k += perLine) {
      run.blocks.slice(k, k + perLine).forEach((b, n) => {
        body += tile(b, { x: MARGIN + n * (tileWidth + GAP), y, cell, columns, tileWidth, tileHeight });
      });
      y += LABEL + tileHeight + GAP;
    }
    y += 8;
  }
  const key = legend(map, y + 4);
  const height = Math.ceil(key.bottom + 20);
  const count = (is: (b: MapBlock) => boolean): number => map.blocks.filter(is).length;
  const judged = count((b) => b.verdict !== undefined);
  const yes = count((b) => b.verdict === 'yes');
  const no = count((b) => b.verdict === 'no');
  const maybe = count((b) => b.verdict === 'maybe');
  const blockBytes = map.source.blockSizeBytes;
  const verdicts = `${yes} of ${judged} memory blocks would go offline (${formatSize(yes * blockBytes)}), ${no} would not, ${maybe} might`;
  const title = `Physical memory: ${map.source.name}`;
  const subtitle = `Linux ${map.source.kernel}, ${formatSize(map.source.totalBytes)} in blocks of ${formatSize(blockBytes)}`;
  const desc = `${subtitle}. ${verdicts}. ${mapRows(map).map(sayRow).join('; ')}. ${map.stuckPageblocks} pageblocks of 2M hold at least one page that cannot move.`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-labelledby="t d" font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif">
<title id="t">${escapeXml(title)}</title>
<desc id="d">${escapeXml(desc)}</desc>
<defs>
<pattern id="none" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="5" height="5" fill="#fff"/><path d="M0 0v5" stroke="#c3cad0" stroke-width="2"/></pattern>
</defs>
<rect x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="10" fill="#fff" stroke="#d5dbe0"/>
<text x="${MARGIN}" y="42" font-size="21" font-weight="600" fill="#1b2227">${escapeXml(title)}</text>
<text x="${MARGIN}" y="66" font-size="13.5" fill="#46525b">${escapeXml(`${subtitle}. ${verdicts}.`)}</text>
${body}${key.text}</svg>
`;
}

/** Rows that fit side by side share a line: one block without a zone does not need a line for itself. */
type Run = { blocks: MapBlock[]; labels: { at: number; text: string; room: number }[] };

function packRows(rows: readonly MapRow[], perLine: number): Run[] {
  const runs: Run[] = [];
  for (const row of rows) {
    const last = runs[runs.length - 1];
    const node = last?.blocks[0]?.node;
    const fits = last !== undefined && node === row.node && last.blocks.length + row.blocks.length <= perLine;
    const label = { at: fits ? last.blocks.length : 0, text: sayRow(row), room: row.blocks.length };
    if (fits) {
      last.blocks.push(...row.blocks);
      last.labels.push(label);
    } else {
      runs.push({ blocks: [...row.blocks], labels: [label] });
    }
  }
  return runs;
}

/** A label has the width of its tiles; where that is too little it is shortened, and a bracket shows its extent. */
function runLabels(run: Run, place: { y: number; pitch: number }): string {
  const single = run.labels.length === 1;
  return run.labels
    .map(({ at, text, room }) => {
      const x = MARGIN + at * place.pitch;
      const width = room * place.pitch - GAP;
      const fits = (t: string): boolean => single || t.length * LABEL_EM <= width;
      const zone = text.replace(/^node \d+, /, '');
      const shown = [text, zone, zone.replace(/: .*/, '')].find(fits) ?? '';
      const bracket = single ? '' : `<path d="M${r(x)} ${place.y + 5}h${r(width)}" stroke="#aab4bb"/>`;
      return `${bracket}<text x="${r(x)}" y="${place.y}" font-size="12.5" font-weight="600" fill="#2b353c">${escapeXml(shown)}</text>\n`;
    })
    .join('');
}

type TilePlace = { x: number; y: number; cell: number; columns: number; tileWidth: number; tileHeight: number };

function tile(b: MapBlock, place: TilePlace): string {
  const { x, y, cell, columns, tileWidth, tileHeight } = place;
  const top = y + LABEL - 4;
  const size = cell >= CELL_MIN ? cell - 0.5 : cell;
  const paths = new Map<string, string>();
  let strokes = '';
  for (let k = 0; k < b.fill.length; k++) {
    const cx = r(x + (k % columns) * cell);
    const cy = r(top + Math.floor(k / columns) * cell);
    const fill = b.fill[k] as Fill; // one letter of FILLS a pageblock
    const plain = fill === '.' || fill === '-';
    const key = `${fill}${plain ? 4 : stepOf(Number(b.used[k]))}`;
    paths.set(key, `${paths.get(key) ?? ''}M${cx} ${cy}h${r(size)}v${r(size)}h-${r(size)}z`);
    if (b.stuck[k] === '1' && cell >= CELL_MIN) strokes += `M${cx} ${r(cy + size)}l${r(size)} -${r(size)}`;
  }
  const state = b.verdict ?? 'offline';
  const colour = VERDICT_COLOUR[state];
  const cells = [...paths].map(([key, d]) => {
    const opacity = OPACITY[Number(key[1])] as number;
    return `<path d="${d}" fill="${COLOUR[key[0] as Fill]}"${opacity === 1 ? '' : ` fill-opacity="${opacity}"`}/>`;
  });
  const says = `block ${b.block}: ${b.verdict === undefined ? 'offline' : b.verdict}${b.errno === undefined ? '' : ` (${b.errno})`}`;
  return `<g><title>${says}</title><text x="${r(x)}" y="${y + 8}" font-size="10.5" fill="#46525b">${b.block}</text><text x="${r(x + tileWidth)}" y="${y + 8}" font-size="11.5" font-weight="700" text-anchor="end" fill="${colour}">${glyphOf(b)}</text>
${cells.join('')}${strokes === '' ? '' : `<path d="${strokes}" stroke="#1b2227" stroke-width="0.9" fill="none"/>`}<rect x="${r(x - 1.5)}" y="${r(top - 1.5)}" width="${r(tileWidth + 2.5)}" height="${r(tileHeight + 2.5)}" rx="2" fill="none" stroke="${colour}" stroke-width="${state === 'offline' ? 0.8 : 1.2}"${state === 'maybe' ? ' stroke-dasharray="3 2"' : ''}/></g>
`;
}

function legend(map: MemoryMap, top: number): { text: string; bottom: number } {
  const fills = (Object.keys(FILL_WORDS) as Fill[]).filter((f) => map.bytes[f] > 0);
  const columns = 3;
  const width = (WIDTH - 2 * MARGIN) / columns;
  let text = `<path d="M${MARGIN} ${top}h${WIDTH - 2 * MARGIN}" stroke="#d5dbe0"/>\n`;
  const entries: { swatch: (x: number, y: number) => string; words: string }[] = fills.map((f) => ({
    swatch: (x, y) =>
      `<rect x="${x}" y="${y}" width="13" height="13" fill="${COLOUR[f]}"${f === '.' || f === '-' ? ' stroke="#aab4bb" stroke-width="0.6"' : ''}/>${
        f === 'K' || f === 'R' ? `<path d="M${x} ${y + 13}l13 -13" stroke="#1b2227" stroke-width="1.2"/>` : ''
      }`,
    words: `${FILL_WORDS[f].replace(/^no flags: .*/, 'no flags (unknown)')}, ${formatSize(map.bytes[f])}`,
  }));
  entries.push({
    swatch: (x, y) =>
      `<rect x="${x}" y="${y}" width="13" height="13" fill="#fff" stroke="#aab4bb" stroke-width="0.6"/><path d="M${x} ${y + 13}l13 -13" stroke="#1b2227" stroke-width="1.2"/>`,
    words: `a page in it cannot move: ${map.stuckPageblocks} pageblocks`,
  });
  const signs = (['yes', 'no', 'maybe', 'offline'] as const).filter((v) =>
    map.blocks.some((b) => (b.verdict ?? 'offline') === v),
  );
  const words = {
    yes: 'would go offline',
    no: 'would not',
    maybe: 'might, or never end',
    offline: 'is offline',
  } as const;
  for (const v of signs) {
    const sample = map.blocks.find((b) => (b.verdict ?? 'offline') === v) as MapBlock; // `signs` says there is one
    entries.push({
      swatch: (x, y) =>
        `<rect x="${x}" y="${y}" width="13" height="13" rx="2" fill="none" stroke="${VERDICT_COLOUR[v]}" stroke-width="1.2"${v === 'maybe' ? ' stroke-dasharray="3 2"' : ''}/><text x="${x + 6.5}" y="${y + 11}" font-size="11" font-weight="700" text-anchor="middle" fill="${VERDICT_COLOUR[v]}">${glyphOf(sample)}</text>`,
      words: `block ${words[v]}`,
    });
  }
  // Fills in two columns, verdicts in the third.
  const perColumn = Math.max(signs.length, Math.ceil((entries.length - signs.length) / (columns - 1)));
  const firstSign = entries.length - signs.length;
  entries.forEach(({ swatch, words: said }, k) => {
    const column = k >= firstSign ? columns - 1 : Math.floor(k / perColumn);
    const x = MARGIN + column * width;
    const y = top + 14 + (k >= firstSign ? k - firstSign : k % perColumn) * 21;
    text += `${swatch(r(x), y)}<text x="${r(x + 20)}" y="${y + 11}" font-size="12.5" fill="#2b353c">${escapeXml(said)}</text>\n`;
  });
  const bottom = top + 14 + perColumn * 21 + 14;
  text += `<text x="${MARGIN}" y="${bottom}" font-size="12" fill="#46525b">One cell is one pageblock of 2 MiB, left to right and downwards; its colour is what most of it is used for, paler where little of it is in use.</text>\n`;
  return { text, bottom };
}

const r = (n: number): number => Math.round(n * 100) / 100;
const escapeXml = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c] as string);
