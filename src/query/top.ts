// top: one frame of a machine's memory as it is now, as lines of words with a look; no terminal, no effects.
//
//   qemu:/run/vm.qmp                                        13:10:22          head
//   2G, 1.7G free; 16 blocks of 128M: 15 online, 1 offline; verdicts of 13:10:15
//
//   node 0, DMA32: 8 blocks, 6 would go; 939M free, 12 of order 9, 220 of order 10       a row for each zone of a node
//   ✗✓✓✓✓✓✓✗                                                                  a cell for each block, ascending
//   node 1, offline: 1 block
//   o
//
//   ✓ would go  ✗ would not  o offline                                        what the cells shown mean
//   block 7, 0x38000000-0x3fffffff, node 0, DMA32, online: would not go: ...  the chosen block
//   13:10:20 memory15 online Movable -> offline                               lines, the latest last, as many as fit
//   q quit  arrows choose a block  enter explains it                          keys
//
//   cell  block                                  cell  block
//   ✓     online, would go offline               o     offline
//   ✗     online, would not                      >     going-offline: somebody is at it, or it hangs there
//   ?     online, might                          !     another word than the kernel has
//   #     online, nobody has judged it yet
//
// Where the rows would not fit into the height, a cell stands for 2, 4, 8, ... neighbouring blocks of its row and shows the one
// that needs most attention (the order of CELLS). Colour repeats what the cells say.
//
// Invariants: no line is wider than the width; with a height there are never more lines; each block of the model is in exactly
// one cell; the same model gives the same frame.

import { formatSize, hex, plural } from '#base/format';
import { PAGE_SIZE } from '#mm/index';
import type { Verdict } from '#twin/index';

export type TopBlock = {
  readonly id: number;
  readonly state: string;
  /** Where it is, or was before it began to go offline; undefined where the kernel names none. */
  readonly zone: string | undefined;
  readonly node: number;
  /** Undefined: not judged since it came into its state and zone. */
  readonly verdict: Verdict | undefined;
  /** Not as it was at the last look. */
  readonly changed: boolean;
};

export type TopZone = {
  readonly node: number;
  readonly zone: string;
  /** Free chunks by order. */
  readonly nrFree: readonly number[];
};

export type TopModel = {
  readonly name: string;
  /** "13:10:22". */
  readonly time: string;
  readonly blockBytes: number;
  readonly memTotal: number;
  readonly memFree: number;
  /** Ascending by id. */
  readonly blocks: readonly TopBlock[];
  readonly zones: readonly TopZone[];
  /** What else the head says: "verdicts of 13:10:15", "no answer since 13:10:20". */
  readonly notes: readonly string[];
  /** Devices of the hypervisor, a line each: "dimm1: 1G on node 1, slot 0". */
  readonly devices: readonly string[];
  /** What happened, oldest first. */
  readonly lines: readonly string[];
  readonly chosen?: { readonly block: number; readonly says: readonly string[] };
  /** The last line; absent on paper. */
  readonly keys?: string;
};

export type Look = 'head' | 'row' | 'yes' | 'no' | 'maybe' | 'dim' | 'hot' | 'chosen';
export type Span = { readonly text: string; readonly look?: Look };
export type FrameLine = readonly Span[];

/** `height` undefined: as many lines as it takes (paper). */
export type FrameSize = { readonly width: number; readonly height?: number };

type Cell = { readonly glyph: string; readonly look: Look; readonly says: string };

/** Most in need of attention first: what a cell of several blocks shows. */
const CELLS = {
  other: { glyph: '!', look: 'hot', says: 'in an unknown state' },
  going: { glyph: '>', look: 'hot', says: 'going offline' },
  no: { glyph: '✗', look: 'no', says: 'would not go' },
  maybe: { glyph: '?', look: 'maybe', says: 'might go' },
  unjudged: { glyph: '#', look: 'row', says: 'not judged yet' },
  yes: { glyph: '✓', look: 'yes', says: 'would go' },
  offline: { glyph: 'o', look: 'dim', says: 'offline' },
} as const satisfies Readonly<Record<string, Cell>>;
type CellKind = keyof typeof CELLS;
const URGENCY = Object.keys(CELLS) as CellKind[];

export function cellOf(b: Pick<TopBlock, 'state' | 'verdict'>): CellKind {
  if (b.state === 'online') return b.verdict ?? 'unjudged';
  if (b.state === 'offline') return 'offline';
  return b.state === 'going-offline' ? 'going' : 'other';
}

export type TopRow = { readonly node: number; readonly zone: string; readonly blocks: readonly TopBlock[] };

/** Zones in the order of addresses; offline blocks are in none. */
const ZONE_ORDER = ['DMA', 'DMA32', 'Normal', 'HighMem', 'Movable', 'Device', 'no one zone', 'offline'];

/** A row for each zone of a node that has blocks or free areas, by node and zone. */
export function topRows(model: Pick<TopModel, 'blocks' | 'zones'>): TopRow[] {
  const rows = new Map<string, { node: number; zone: string; blocks: TopBlock[] }>();
  const rowOf = (node: number, zone: string): { blocks: TopBlock[] } => {
    const key = `${node} ${zone}`;
    const found = rows.get(key) ?? { node, zone, blocks: [] };
    rows.set(key, found);
    return found;
  };
  for (const z of model.zones) rowOf(z.node, z.zone);
  for (const b of model.blocks)
    rowOf(b.node, b.state === 'offline' ? 'offline' : (b.zone ?? 'no one zone')).blocks.push(b);
  const rank = (zone: string): number => (ZONE_ORDER.includes(zone) ? ZONE_ORDER.indexOf(zone) : ZONE_ORDER.length);
  return [...rows.values()].sort((a, b) => a.node - b.node || rank(a.zone) - rank(b.zone));
}

/** Blocks in the order in which they are shown: what the arrow keys walk through. */
export const shownOrder = (model: Pick<TopModel, 'blocks' | 'zones'>): number[] =>
  topRows(model).flatMap((row) => row.blocks.map((b) => b.id));

const MIN_WIDTH = 20;

/** Cost: O(blocks), some times over where a cell must stand for several. */
export function frame(model: TopModel, size: FrameSize): FrameLine[] {
  const width = Math.max(MIN_WIDTH, size.width);
  const rows = topRows(model);
  const head = headLines(model, width);
  const tail = tailLines(model, width);
  const keys = model.keys === undefined ? [] : [cut([{ text: model.keys, look: 'dim' }], width)];
  const fixed = head.length + tail.length + keys.length + 3; // blank lines, and the legend
  let perCell = 1;
  let body = bodyLines(model, rows, width, perCell);
  if (size.height !== undefined) {
    const most = Math.max(0, ...rows.map((r) => r.blocks.length));
    while (fixed + body.length > size.height && perCell < most) body = bodyLines(model, rows, width, (perCell *= 2));
  }
  const top = [...head, [], ...body, [], legendLine(model, perCell, width), ...tail];
  if (size.height === undefined) return [...top, ...eventLines(model, width, model.lines.length + 1), ...keys];
  const room = Math.max(0, size.height - top.length - keys.length);
  return [...top.slice(0, size.height - keys.length), ...eventLines(model, width, room), ...keys].slice(0, size.height);
}

function headLines(model: TopModel, width: number): FrameLine[] {
  const gap = width - length(model.name) - length(model.time);
  const first: Span[] =
    gap > 0
      ? [{ text: model.name, look: 'head' }, { text: ' '.repeat(gap) + model.time }]
      : [{ text: `${model.time} ` }, { text: model.name, look: 'head' }];
  const count = (state: string): number => model.blocks.filter((b) => b.state === state).length;
  const others = ['online', 'offline', 'going-offline'].flatMap((s) => (count(s) === 0 ? [] : [`${count(s)} ${s}`]));
  const memory = `${formatSize(model.memTotal)}, ${formatSize(model.memFree)} free`;
  const blocks = `${plural(model.blocks.length, 'block')} of ${formatSize(model.blockBytes)}: ${others.join(', ')}`;
  return [cut(first, width), ...flow([[memory, blocks, ...model.notes].join('; ')], width)];
}

function bodyLines(model: TopModel, rows: readonly TopRow[], width: number, perCell: number): FrameLine[] {
  const lines: FrameLine[] = [];
  for (const row of rows) {
    lines.push(cut([{ text: sayRow(row, model), look: 'row' }], width));
    let line: Span[] = [];
    for (let at = 0; at < row.blocks.length; at += perCell) {
      line.push(cellSpan(row.blocks.slice(at, at + perCell), model.chosen?.block));
      if (line.length === width || at + perCell >= row.blocks.length) {
        lines.push(joined(line));
        line = [];
      }
    }
  }
  return lines;
}

function sayRow(row: TopRow, model: TopModel): string {
  const parts: string[] = [];
  const judged = row.blocks.filter((b) => b.verdict !== undefined);
  const would = judged.length === 0 ? '' : `, ${judged.filter((b) => b.verdict === 'yes').length} would go`;
  if (row.blocks.length > 0) parts.push(`${plural(row.blocks.length, 'block')}${would}`);
  const zone = model.zones.find((z) => z.node === row.node && z.zone === row.zone);
  if (zone !== undefined) {
    const pages = zone.nrFree.reduce((n, count, order) => n + count * 2 ** order, 0);
    const chunks = [9, 10].map((order) => `${zone.nrFree[order] ?? 0} of order ${order}`);
    parts.push(`${formatSize(pages * PAGE_SIZE)} free, ${chunks.join(', ')}`);
  }
  return `node ${row.node}, ${row.zone}: ${parts.join('; ')}`;
}

function cellSpan(blocks: readonly TopBlock[], chosen: number | undefined): Span {
  const kinds = blocks.map(cellOf);
  const worst = URGENCY.find((k) => kinds.includes(k)) ?? 'other';
  const { glyph, look } = CELLS[worst];
  if (blocks.some((b) => b.id === chosen)) return { text: glyph, look: 'chosen' };
  return { text: glyph, look: blocks.some((b) => b.changed) ? 'hot' : look };
}

function legendLine(model: TopModel, perCell: number, width: number): FrameLine {
  const kinds = new Set(model.blocks.map(cellOf));
  const spans = URGENCY.filter((k) => kinds.has(k)).flatMap((k): Span[] => [
    { text: CELLS[k].glyph, look: CELLS[k].look },
    { text: ` ${CELLS[k].says}  ` },
  ]);
  const scale = perCell === 1 ? [] : [{ text: `a cell is ${perCell} blocks: ` }];
  return cut([...scale, ...spans], width);
}

/** What stands between the cells and the events. */
const tailLines = (model: TopModel, width: number): FrameLine[] => [
  ...model.devices.map((d) => cut([{ text: d }], width)),
  ...(model.chosen === undefined ? [] : flow([sayChosen(model), ...model.chosen.says], width)),
];

function sayChosen(model: TopModel): string {
  const b = model.blocks.find((x) => x.id === model.chosen?.block);
  if (b === undefined) return `block ${model.chosen?.block} is gone`;
  const start = b.id * model.blockBytes;
  const verdict = b.verdict === undefined ? '' : `: ${CELLS[b.verdict].says}`;
  return `block ${b.id}, 0x${hex(start)}-0x${hex(start + model.blockBytes - 1)}, node ${b.node}, ${b.zone ?? 'no one zone'}, ${b.state}${verdict}`;
}

function eventLines(model: TopModel, width: number, room: number): FrameLine[] {
  if (room < 2 || model.lines.length === 0) return [];
  return [[], ...model.lines.slice(-(room - 1)).map((text) => cut([{ text }], width))];
}

// ------------------------------------------------------------------------------------------------------ spans and widths

/** Every character that is shown here is one cell of a terminal wide. */
const length = (text: string): number => [...text].length;

/** Neighbours of the same look become one span: a row of 500 cells is a few. */
function joined(spans: readonly Span[]): Span[] {
  const out: Span[] = [];
  for (const s of spans) {
    const last = out[out.length - 1];
    if (last !== undefined && last.look === s.look) out[out.length - 1] = { ...last, text: last.text + s.text };
    else out.push(s);
  }
  return out;
}

/** At most `width` wide, with "…" where something is missing; what comes from a guest has no control characters left. */
function cut(spans: readonly Span[], width: number): Span[] {
  const out: Span[] = [];
  let room = width;
  const clean = spans.map((s) => ({ ...s, text: s.text.replace(/\p{Cc}/gu, ' ') }));
  const all = clean.reduce((n, s) => n + length(s.text), 0);
  if (all <= width) return joined(clean);
  for (const s of clean) {
    if (room <= 1) break;
    const text = [...s.text].slice(0, room - 1).join('');
    room -= length(text);
    out.push({ ...s, text });
  }
  return joined([...out, { text: '…' }]);
}

/** Words into lines; what goes on stands two blanks in. */
function flow(texts: readonly string[], width: number): FrameLine[] {
  const lines: FrameLine[] = [];
  for (const text of texts) {
    let line = '';
    for (const word of text.split(' ')) {
      if (line !== '' && length(line) + 1 + length(word) > width) {
        lines.push(cut([{ text: line }], width));
        line = `  ${word}`;
      } else line = line === '' ? word : `${line} ${word}`;
    }
    lines.push(cut([{ text: line }], width));
  }
  return lines;
}

// ------------------------------------------------------------------------------------------------------- from look to look

/** What was known of a block when it was judged: a verdict holds as long as this does. */
export type Judged = {
  readonly verdict: Verdict | undefined;
  readonly state: string;
  readonly zone: string | undefined;
};

export type SeenBlock = {
  readonly id: number;
  readonly state: string;
  readonly zone: string | undefined;
  readonly nodes: readonly number[];
};

/**
 * The blocks of the next frame. A block that is going offline stays in the row in which it was; a verdict goes when its block
 * is in another zone than when it was judged.
 */
export function nextBlocks(
  before: readonly TopBlock[] | undefined,
  seen: readonly SeenBlock[],
  judged: ReadonlyMap<number, Judged>,
): TopBlock[] {
  const known = new Map(before?.map((b) => [b.id, b]));
  return seen.map((s): TopBlock => {
    const was = known.get(s.id);
    const zone = s.state === 'going-offline' ? (s.zone ?? was?.zone) : s.zone;
    const j = judged.get(s.id);
    return {
      id: s.id,
      state: s.state,
      zone,
      node: s.nodes[0] ?? 0,
      verdict: s.state === 'online' && j?.state === 'online' && j.zone === zone ? j.verdict : undefined,
      changed: before !== undefined && (was === undefined || was.state !== s.state || was.zone !== zone),
    };
  });
}

export type Move = 'left' | 'right' | 'up' | 'down';

/** The block that an arrow key leads to; the first one from nowhere. Up and down: to the row before and after. */
export function moveChoice(rows: readonly TopRow[], chosen: number | undefined, move: Move): number | undefined {
  const withBlocks = rows.filter((r) => r.blocks.length > 0);
  const y = withBlocks.findIndex((r) => r.blocks.some((b) => b.id === chosen));
  if (y < 0) return withBlocks[0]?.blocks[0]?.id;
  const row = withBlocks[y] as TopRow; // findIndex found it
  const x = row.blocks.findIndex((b) => b.id === chosen);
  if (move === 'left' || move === 'right') {
    const order = withBlocks.flatMap((r) => r.blocks);
    const at = order.findIndex((b) => b.id === chosen) + (move === 'left' ? -1 : 1);
    return order[Math.min(order.length - 1, Math.max(0, at))]?.id;
  }
  const other = withBlocks[y + (move === 'up' ? -1 : 1)];
  if (other === undefined) return chosen;
  return other.blocks[Math.min(x, other.blocks.length - 1)]?.id;
}
