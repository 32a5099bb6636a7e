// Pictures: small worlds drawn as on a whiteboard, and machines drawn back.
//
//   worldFrom(`
//     n0 DMA32    MM..U...|U:UU......|HHHHHHHH     one line = one memory block of 128 MiB, in address order
//     n0 Normal   ........
//     n1 Movable  P....... *M                      "*M": every pageblock after the drawn ones is full of M
//   `)
//
//   one cell = 64 frames, one pageblock = 8 cells; pageblocks that are not drawn are free
//
//   .  free                M  anonymous, one allocation     m  anonymous, 64 single frames     #  no RAM
//   F  file                P  M with a pin                  U  slab                            R  reserved
//   T  anonymous, order 9  H  hugetlb, order 9              B  balloon                         V  never plugged
//   X  poisoned            D  driver                        W  memmap      (T and H come eight at a time)
//   ?  (drawn back only) more than one of these in a cell; U: R: C: A: I: before a pageblock = its type, if not Movable
//
// Drawn back, a block that is offline reads "n1 offline", with the frames that stayed in it.

import { assert } from '#base/assert';
import type { BlockId, HolderId, NodeId, Pfn } from '#base/units';
import { toBlockId, toNodeId, toPfn } from '#base/units';
import {
  MIGRATE_MOVABLE,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
  PAGEBLOCKS_PER_SECTION,
  PAGES_PER_SECTION,
} from '#mm/geometry';
import { Machine } from '#mm/machine';
import type { MachineSpec, RamRange } from '#mm/machine-spec';
import { CLASS_TRAITS, type PageClass, ZONE_NAMES, type ZoneIndex, type ZoneName } from '#mm/page-class';

export const CELL_PAGES = 64;
const CELL_ORDER = 6;
const CELLS = PAGEBLOCK_PAGES / CELL_PAGES; // 8
const TYPES = 'UMRACI'; // by migrate type

type Ink = { readonly class: PageClass; readonly order: number; readonly pinned?: boolean };
const INKS: Readonly<Record<string, Ink>> = {
  M: { class: 'anonymous', order: CELL_ORDER },
  m: { class: 'anonymous', order: 0 },
  P: { class: 'anonymous', order: CELL_ORDER, pinned: true },
  F: { class: 'file', order: CELL_ORDER },
  T: { class: 'anonymous', order: PAGEBLOCK_ORDER },
  H: { class: 'hugetlb', order: PAGEBLOCK_ORDER },
  U: { class: 'slab', order: CELL_ORDER },
  R: { class: 'reserved', order: CELL_ORDER },
  B: { class: 'balloon', order: CELL_ORDER },
  V: { class: 'unplugged', order: CELL_ORDER },
  X: { class: 'poisoned', order: CELL_ORDER },
  D: { class: 'driver', order: CELL_ORDER },
  W: { class: 'memmap', order: CELL_ORDER },
};

type Line = { node: NodeId; zone: ZoneIndex; pageblocks: { type: number; cells: string }[] };

export type World = {
  readonly m: Machine;
  /** The holder behind a letter. */
  holder(letter: string): HolderId;
  /** First frame of a cell: line (= block) k, pageblock, cell. */
  at(block: number, pageblock?: number, cell?: number): Pfn;
  /** Block id of line k. */
  block(k: number): BlockId;
};

function parseLine(text: string): Line {
  const m = /^n(\d+) +(\w+) +(\S+)(?: +\*(\S))?$/.exec(text.trim());
  assert(m !== null, 'a line of a picture reads "n0 Normal  MM..|....  *U"', { text });
  const zone = ZONE_NAMES.indexOf(m[2] as ZoneName);
  assert(zone >= 0, 'no such zone', { zone: m[2] });
  const pageblocks = m[3].split('|').map((drawn) => {
    const type = drawn[1] === ':' ? TYPES.indexOf(drawn[0]) : MIGRATE_MOVABLE;
    const cells = drawn[1] === ':' ? drawn.slice(2) : drawn;
    assert(type >= 0 && cells.length === CELLS, 'a pageblock is 8 cells', { drawn });
    return { type, cells };
  });
  assert(pageblocks.length <= PAGEBLOCKS_PER_SECTION, 'a line is one section');
  const rest = m[4] ?? '.';
  while (pageblocks.length < PAGEBLOCKS_PER_SECTION) {
    pageblocks.push({ type: MIGRATE_MOVABLE, cells: rest.repeat(CELLS) });
  }
  return { node: toNodeId(Number(m[1])), zone: zone as ZoneIndex, pageblocks };
}

/** Runs of cells with RAM, as ranges of frames. */
function ramOf(lines: readonly Line[]): RamRange[] {
  const ram: RamRange[] = [];
  lines.forEach((line, k) => {
    const cells = line.pageblocks.map((p) => p.cells).join('');
    for (const run of cells.matchAll(/[^#]+/g)) {
      const start = k * PAGES_PER_SECTION + run.index * CELL_PAGES;
      const end = start + run[0].length * CELL_PAGES;
      ram.push({ start: toPfn(start), end: toPfn(end), node: line.node, zone: line.zone });
    }
  });
  return ram;
}

/**
 * A machine that looks like the picture: no watermarks and blocks of 128 MiB unless `spec` says otherwise.
 *
 * Per-CPU lists are empty. Chunks of order 10 form as FA3 says, so that two free pageblocks of one chunk have one type.
 */
export function worldFrom(text: string, spec: Partial<MachineSpec> = {}): World {
  const lines = text
    .split('\n')
    .filter((l) => l.trim() !== '')
    .map(parseLine);
  const m = Machine.boot({
    ram: ramOf(lines),
    watermarks: 'none',
    blockSize: 2 ** 27,
    code: 'shared',
    populate: 'nothing',
    ...spec,
  });
  const holders = new Map<string, HolderId>();
  const holder = (letter: string): HolderId => {
    let h = holders.get(letter);
    if (h === undefined) {
      assert(INKS[letter] !== undefined, 'no such letter', { letter });
      h = m.addHolder({ class: INKS[letter].class, name: letter });
      holders.set(letter, h);
    }
    return h;
  };
  lines.forEach((line, k) => {
    line.pageblocks.forEach(({ type, cells }, pb) => {
      const first = k * PAGES_PER_SECTION + pb * PAGEBLOCK_PAGES;
      const index = m.sections.indexOf(toPfn(first));
      const pool = m.poolAt(index);
      if (pool === undefined) return; // all of it is no RAM
      if (type !== MIGRATE_MOVABLE) pool.alloc.setPageblockType(index - pool.base, type);
      if (cells === '.'.repeat(CELLS)) {
        pool.alloc.freeToArea(index - pool.base, PAGEBLOCK_ORDER, true);
        pool.managed += PAGEBLOCK_PAGES;
        return;
      }
      for (let c = 0; c < CELLS; c++) {
        const start = first + c * CELL_PAGES;
        const letter = cells[c];
        if (letter === '#') continue;
        if (letter === '.') {
          pool.alloc.freeToArea(index + c * CELL_PAGES - pool.base, CELL_ORDER, true);
          pool.managed += CELL_PAGES;
          continue;
        }
        const h = holder(letter);
        const ink = INKS[letter];
        if (ink.order === PAGEBLOCK_ORDER) {
          assert(cells === letter.repeat(CELLS), 'an allocation of order 9 fills its pageblock', { cells });
          m.place(h, toPfn(first), toPfn(first + PAGEBLOCK_PAGES));
          pool.managed += PAGEBLOCK_PAGES;
          return;
        }
        m.place(h, toPfn(start), toPfn(start + CELL_PAGES), ink.order);
        if (CLASS_TRAITS[ink.class].managed) pool.managed += CELL_PAGES;
        if (ink.pinned === true) m.pin(toPfn(start));
      }
    });
  });
  m.updateWatermarks();
  return {
    m,
    holder,
    at: (block, pageblock = 0, cell = 0) =>
      toPfn(block * PAGES_PER_SECTION + pageblock * PAGEBLOCK_PAGES + cell * CELL_PAGES),
    block: (k) => toBlockId(k),
  };
}

/** Letter of one frame, or of an allocation's part; undefined where the class has none. */
function letterOf(m: Machine, pfn: Pfn): string {
  const f = m.frame(pfn);
  if (f.state === 'absent') return '#';
  if (f.state === 'free') return '.';
  if (f.state === 'offline') {
    const a = m.sections.allocationAt(m.sections.indexOf(pfn));
    if (a === undefined) return '-';
    return letterOfUse(m.holders.specs[m.holders.holderOf(m.sections.ownerAt(a.head))].class, a.order, false);
  }
  return letterOfUse(f.class, f.order, f.pinned);
}

function letterOfUse(cls: PageClass, order: number, pinned: boolean): string {
  const of = Object.entries(INKS).filter(([, ink]) => ink.class === cls && (ink.pinned ?? false) === pinned);
  if (of.length === 0) return '?';
  const size = order === 0 ? 0 : order >= PAGEBLOCK_ORDER ? PAGEBLOCK_ORDER : CELL_ORDER;
  return (of.find(([, ink]) => ink.order === size) ?? of[0])[0];
}

function pageblockOf(m: Machine, first: number): string {
  let cells = '';
  for (let c = 0; c < CELLS; c++) {
    const seen = new Set<string>();
    for (let k = 0; k < CELL_PAGES; k++) seen.add(letterOf(m, toPfn(first + c * CELL_PAGES + k)));
    cells += seen.size === 1 ? [...seen][0] : '?';
  }
  const index = m.sections.indexOf(toPfn(first));
  const pool = m.poolAt(index);
  const type = pool === undefined ? MIGRATE_MOVABLE : pool.alloc.area.typeOf(index - pool.base);
  return type === MIGRATE_MOVABLE ? cells : `${TYPES[type]}:${cells}`;
}

/** The machine as a picture, one line a block of 128 MiB; what worldFrom would draw from it. Cost O(frames). */
export function pictureOf(m: Machine): string {
  const lines: string[] = [];
  for (const id of m.blockIds()) {
    const block = m.block(id);
    if (block === undefined) continue;
    const pageblocks: string[] = [];
    for (let pfn: number = block.startPfn; pfn < block.endPfn; pfn += PAGEBLOCK_PAGES) {
      pageblocks.push(pageblockOf(m, pfn));
    }
    const rest = pageblocks[pageblocks.length - 1];
    const uniform = /^(.)\1{7}$/.test(rest);
    let drawn = pageblocks.length;
    while (uniform && drawn > 1 && pageblocks[drawn - 1] === rest) drawn--;
    // A prefix of one pageblock that is like the rest says it all; otherwise the odd ones come first.
    const letter = rest[0];
    const tail = !uniform || letter === '.' || letter === '-' || drawn === pageblocks.length ? '' : ` *${letter}`;
    const zone = block.state === 'offline' ? 'offline' : (block.pool?.name ?? 'none');
    lines.push(`n${block.node} ${zone.padEnd(8)} ${pageblocks.slice(0, drawn).join('|')}${tail}`);
  }
  return lines.join('\n');
}

/** A picture's text without indentation, to compare with pictureOf. */
export const drawn = (text: string): string =>
  text
    .split('\n')
    .map((l) => l.trim())
    .filter((l) => l !== '')
    .map((l) => l.replace(/^(n\d+) +(\w+) +/, (_, node: string, zone: string) => `${node} ${zone.padEnd(8)} `))
    .join('\n');
