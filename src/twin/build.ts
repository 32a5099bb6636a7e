// buildTwin: a capture becomes a Machine, frame by frame.
//
//   1 layout      RAM ranges with node and zone                                     layout.ts
//   2 boot        a machine with nothing placed
//   3 place       used frames get holders; free and unflagged spans are collected   place-frames.ts
//   4 unflagged   not initialised (deferred) | whole pageblocks | per-CPU free | kernel
//   5 types       a migrate type for each pageblock, so that pagetypeinfo's sums come out   pageblock-types.ts
//   6 free        spans are cut into the chunks that coalescing must have made, and listed
//   7 watermarks  as the capture says
//   8 compare     every counter of the twin beside the file it should equal         compare.ts
//
// Frames without flags (step 4), by zone:
//   D = present - managed - frames known to be unmanaged. The kernel initialises struct pages from the low end, so
//   whole unflagged pageblocks at the top of the zone are "deferred" while D lasts                       (derived)
//   pcp = sum of zoneinfo's pagesets counts: so many unflagged frames lie on per-CPU lists   (measured; which: assumed)
//   the rest is kernel memory that shows no flag                                                         (derived)
//
// Sources: spec 1.4, 1.5, 2.1, 4.4, 6; docs/fidelity.md.

import { Prng } from '#base/prng';
import { err, ok, type Result } from '#base/result';
import type { Capture, CaptureProblem } from '#capture/capture';
import { iomemHidden, parseIomem, systemRamPfnRanges } from '#kernfs/iomem';
import { type MemoryBlocks, readMemoryBlocks } from '#kernfs/memory-blocks';
import { type Pagetypeinfo, parsePagetypeinfo } from '#kernfs/pagetypeinfo';
import { parseVersion } from '#kernfs/version';
import { parseVmstat } from '#kernfs/vmstat';
import { parseZoneinfo, type ZoneinfoZone } from '#kernfs/zoneinfo';
import {
  type BlockId,
  CHUNK_PAGES,
  MAX_ORDER,
  Machine,
  MIGRATE_MOVABLE,
  MIGRATE_NAMES,
  NR_ORDERS,
  PAGEBLOCK_PAGES,
  type Pool,
  type RamRange,
  toPfn,
} from '#mm/index';
import { compareWithFiles } from './compare.ts';
import { flagsHeadsOnly, joinTails } from './free-tails.ts';
import { type FrameRange, ramFromFlags, ramRanges, zoneIndexOf } from './layout.ts';
import { numaOf } from './numa.ts';
import { assignTypes, type TypeTargets, type TypeUnits } from './pageblock-types.ts';
import { emptyTally, FramePlacer, type PlacedFrames, USER_PIN_FRAMES } from './place-frames.ts';
import type { BlockEvidence, Twin, TwinBase, TwinRefusal } from './twin.ts';

/** Names of the holders of unflagged frames; verdicts and explanations look for them. */
export const HOLDER_PCP = 'free on per-CPU lists (which ones is assumed)';
export const HOLDER_UNFLAGGED = 'kernel memory that shows no flag';
export const HOLDER_WHOLE =
  'whole pageblocks without flags (memory map of hot-added memory, or another large allocation)';
/** Page cache that Linux reclaims at once when it needs room, and what it has to unmap or write back first. */
export { BUSY_CACHE_NAME as HOLDER_BUSY_CACHE, CLEAN_CACHE_NAME as HOLDER_CLEAN } from './place-frames.ts';
export const HOLDER_DEFERRED = 'struct pages not initialised yet';

/** The type assignment is a search: its seed is fixed so that one capture always gives one twin. */
const TYPE_SEED = 2007;

/** Text files that are missing or do not parse become problems; only memory blocks and zones are indispensable. */
export type TwinOptions = {
  /** 'search' (default): pageblock types such that pagetypeinfo's sums come out; 'contents': by a glance at the pages. */
  readonly types?: 'search' | 'contents';
};

export function buildTwin(capture: Capture, options: TwinOptions = {}): Result<Twin, TwinRefusal> {
  const problems: CaptureProblem[] = [...capture.problems];
  const memory = readMemoryBlocks(capture.tree);
  if (!memory.ok) return err({ reason: 'no-memory-blocks', message: sentence(memory.error) });
  const zoneText = capture.tree.readText('/proc/zoneinfo');
  if (zoneText === undefined) {
    return err({
      reason: 'no-zones',
      message: `${capture.origin.name} has no /proc/zoneinfo, so nothing is known of zones`,
    });
  }
  const zoneinfo = parseZoneinfo(zoneText);
  if (!zoneinfo.ok) return err({ reason: 'unreadable', message: sentence(zoneinfo.error) });
  const pagetypes = optional(capture, '/proc/pagetypeinfo', parsePagetypeinfo, problems);
  const versionText = capture.tree.readText('/proc/version');
  const version = versionText === undefined ? undefined : parseVersion(versionText);
  const base: TwinBase = {
    capture,
    kernel: version?.ok === true ? version.value.release : 'unknown',
    blockPages: memory.value.blockSizeBytes / 4096,
    blocks: memory.value.blocks,
    zones: zoneinfo.value,
    pagetypes,
    problems,
  };
  if (pagetypes !== undefined && pagetypes.pageblockOrder !== 9) {
    return err({
      reason: 'unsupported',
      message: `pageblocks of order ${pagetypes.pageblockOrder}: dimmer models x86-64's 2 MiB pageblocks (order 9) only`,
    });
  }
  if (capture.kpageflags === undefined) return ok({ ...base, level: 'counters' });
  const types = options.types === 'contents' ? undefined : pagetypes;
  return ok(buildPages(base, memory.value, capture.kpageflags, types, problems));
}

const sentence = (p: { file: string; line: number; reason: string }): string =>
  p.line > 0 ? `${p.file}, line ${p.line}: ${p.reason}` : `${p.file}: ${p.reason}`;

/** A file that helps but need not be there. */
function optional<T>(
  capture: Capture,
  path: string,
  parse: (text: string) => Result<T, { file: string; line: number; reason: string }>,
  problems: CaptureProblem[],
): T | undefined {
  const text = capture.tree.readText(path);
  if (text === undefined) return undefined;
  const parsed = parse(text);
  if (parsed.ok) return parsed.value;
  problems.push({
    file: path,
    kind: 'corrupt',
    detail: sentence(parsed.error),
    lost: 'what this file says; the rest still counts',
    remedy: 'capture again',
  });
  return undefined;
}

function buildPages(
  base: TwinBase,
  memory: MemoryBlocks,
  flags: NonNullable<Capture['kpageflags']>,
  pagetypes: Pagetypeinfo | undefined,
  problems: CaptureProblem[],
): Twin {
  const { capture, zones } = base;
  const iomem = optional(capture, '/proc/iomem', parseIomem, problems);
  const known = iomem !== undefined && !iomemHidden(iomem) ? systemRamPfnRanges(iomem) : [];
  const ram: readonly FrameRange[] = known.length > 0 ? known : ramFromFlags(flags, memory);
  const ranges = ramRanges(ram, memory, zones);
  // Before 6.12 (seen on 6.1) Movable takes part in min_free_kbytes like any zone.
  const release = /^(\d+)\.(\d+)/.exec(base.kernel);
  const share = release !== null && Number(release[1]) * 1000 + Number(release[2]) < 6012;
  const machine = Machine.boot({
    ram: ranges,
    blockSize: memory.blockSizeBytes,
    cpus: Math.max(1, ...zones.map((z) => z.pagesets.length)),
    ...numaOf(
      capture.tree,
      [...new Set(ranges.map((r) => r.node))].sort((a, b) => a - b),
    ),
    populate: 'nothing',
    code: 'shared',
    watermarks: {
      minFreeKbytes: 4 * zones.reduce((n, z) => n + (z.zone === 'Movable' && !share ? 0 : z.min), 0),
      scaleFactor: 10,
      thp: false,
      movable: share ? 'share' : 'own',
    },
  });
  const virtioMem = (iomem ?? [])
    .filter((e) => /virtio_mem/.test(e.name))
    .map((e) => ({
      startPfn: Math.ceil(e.startPhys / 4096),
      endPfn: Math.floor(e.endPhys / 4096),
    }));
  const placer = new FramePlacer(machine, {
    flags,
    ...(capture.kpagecgroup === undefined ? {} : { cgroupOf: capture.kpagecgroup }),
    cgroups: capture.cgroups,
    virtioMem,
  });
  const placed = placer.place(ranges);
  noteVmemmap(machine);
  // Kernels that flag only the head of a free chunk: the unflagged frames behind it are free too.
  const spans = flagsHeadsOnly(placed, zones) ? joinTails(placed) : placed;
  placeUnflagged(machine, placer, spans.unflagged, zones);
  const byPool = unitsByPool(machine, chunksOf(machine, spans.free), placed);
  for (const pool of machine.pools) seedPool(pool, byPool[pool.id] as PoolUnits, pagetypes);
  takeSpans(machine, ranges, zones);
  takeWatermarks(machine, zones);
  for (const p of machine.pools) p.managed = recount(machine, p);

  const vmstatText = capture.tree.readText('/proc/vmstat');
  const vmstat = vmstatText === undefined ? undefined : parseVmstat(vmstatText);
  const acquired = vmstat?.ok === true ? vmstat.value.get('nr_foll_pin_acquired') : undefined;
  const released = vmstat?.ok === true ? vmstat.value.get('nr_foll_pin_released') : undefined;
  return {
    ...base,
    level: 'pages',
    machine,
    comparisons: compareWithFiles(machine, base),
    evidence: evidenceOf(machine, placed),
    pinnedSomewhere: acquired === undefined || released === undefined ? undefined : acquired - released,
  };
}

function evidenceOf(m: Machine, placed: PlacedFrames): Map<BlockId, BlockEvidence> {
  return new Map(
    m.blockIds().map((id) => {
      const t = placed.tallies.get(id) ?? emptyTally();
      if (t.userPins >= USER_PIN_FRAMES) return [id, t];
      return [id, { ...t, userPins: 0, pinRuns: t.pinRuns.filter((r) => r.sign !== 'user-pin') }];
    }),
  );
}

/** Blocks that begin with their own memmap (memmap_on_memory): those frames leave with the block. */
function noteVmemmap(m: Machine): void {
  for (let row = 0; row < m.blocks.length; row++) {
    const start = m.blocks.idAt(row) * m.blockPages;
    let pages = 0;
    while (pages < m.blockPages) {
      const f = m.frame(toPfn(start + pages));
      if (f.state !== 'used' || f.class !== 'memmap') break;
      pages += 1 << f.order;
    }
    m.blocks.vmemmapPages[row] = pages - (pages % PAGEBLOCK_PAGES);
  }
}

// ------------------------------------------------------------------------------------------ step 4: unflagged frames

function placeUnflagged(
  m: Machine,
  placer: FramePlacer,
  unflagged: readonly FrameRange[],
  zones: readonly ZoneinfoZone[],
): void {
  const pcp = placer.holder({ class: 'unknown', name: HOLDER_PCP });
  const rest = placer.holder({ class: 'unknown', name: HOLDER_UNFLAGGED });
  const whole = placer.holder({ class: 'unknown', name: HOLDER_WHOLE });
  const deferredHolder = placer.holder({ class: 'deferred', name: HOLDER_DEFERRED });
  for (const pool of m.pools) {
    const z = zones.find((x) => x.node === pool.node && zoneIndexOf(x.zone) === pool.zone);
    const spans = cutByPool(m, unflagged, pool);
    let deferred = z === undefined ? 0 : z.present - z.managed - unmanagedIn(m, pool);
    const onLists = z === undefined ? 0 : z.pagesets.reduce((n, s) => n + s.count, 0);

    const left: FrameRange[] = [];
    // From the top: what is not initialised.
    for (let k = spans.length - 1; k >= 0; k--) {
      const s = spans[k] as FrameRange;
      const first = Math.ceil(s.startPfn / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
      const last = Math.floor(s.endPfn / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
      const take = Math.min(last - first, deferred - (deferred % PAGEBLOCK_PAGES));
      if (take <= 0) {
        left.push(s);
        continue;
      }
      deferred -= take;
      m.place(deferredHolder, toPfn(last - take), toPfn(last));
      tallyEach(placer, last - take, last, (t, n) => {
        t.deferred += n;
        t.unflagged -= n;
      });
      if (s.endPfn > last) left.push({ startPfn: last, endPfn: s.endPfn });
      if (s.startPfn < last - take) left.push({ startPfn: s.startPfn, endPfn: last - take });
    }
    left.sort((a, b) => a.startPfn - b.startPfn);
    const all = left.reduce((n, s) => n + s.endPfn - s.startPfn, 0);

    // A whole pageblock without flags is a large kernel allocation, or an order-9 page on a per-CPU list. It is called
    // kernel memory only if the unflagged frames beyond the lists' length could be all of them; never in Movable. Even
    // then, pageblocks that stand alone go to the lists first, as many as could fit: huge pages are freed here and
    // there, while a memory map comes in rows (2 MiB for each 128 MiB that were added).
    const wholePages = left.reduce((n, s) => n + wholePageblocks(s) * PAGEBLOCK_PAGES, 0);
    const wholeIsKernel = pool.name !== 'Movable' && wholePages <= all - onLists;
    let hugeOnLists = z === undefined ? 0 : z.pagesets.reduce((n, s) => n + Math.floor(s.count / PAGEBLOCK_PAGES), 0);
    let onListsLeft = onLists;
    for (const s of left) {
      const alone = wholeIsKernel && wholePageblocks(s) === 1 && hugeOnLists > 0;
      if (alone) hugeOnLists--;
      for (let pfn = s.startPfn; pfn < s.endPfn; ) {
        const isWhole = wholeIsKernel && !alone && pfn % PAGEBLOCK_PAGES === 0 && pfn + PAGEBLOCK_PAGES <= s.endPfn;
        if (isWhole) {
          m.place(whole, toPfn(pfn), toPfn(pfn + PAGEBLOCK_PAGES));
          placer.tallyOf(pfn).unflaggedWhole += PAGEBLOCK_PAGES;
          pfn += PAGEBLOCK_PAGES;
          continue;
        }
        const stop = Math.min(s.endPfn, (Math.floor(pfn / PAGEBLOCK_PAGES) + 1) * PAGEBLOCK_PAGES);
        const listed = Math.min(onListsLeft, stop - pfn);
        if (listed > 0) m.place(pcp, toPfn(pfn), toPfn(pfn + listed), 0);
        if (pfn + listed < stop) m.place(rest, toPfn(pfn + listed), toPfn(stop), 0);
        onListsLeft -= listed;
        pfn = stop;
      }
    }
  }
}

const wholePageblocks = (s: FrameRange): number =>
  Math.max(0, Math.floor(s.endPfn / PAGEBLOCK_PAGES) - Math.ceil(s.startPfn / PAGEBLOCK_PAGES));

function tallyEach(
  placer: FramePlacer,
  start: number,
  end: number,
  each: (t: ReturnType<FramePlacer['tallyOf']>, pages: number) => void,
): void {
  for (let pfn = start; pfn < end; pfn += PAGEBLOCK_PAGES)
    each(placer.tallyOf(pfn), Math.min(PAGEBLOCK_PAGES, end - pfn));
}

/** The parts of the spans that lie in the pool, cut at pageblocks of other pools. */
function cutByPool(m: Machine, spans: readonly FrameRange[], pool: Pool): FrameRange[] {
  const out: { startPfn: number; endPfn: number }[] = [];
  for (const s of spans) {
    for (let pfn = s.startPfn; pfn < s.endPfn; ) {
      const stop = Math.min(s.endPfn, (Math.floor(pfn / PAGEBLOCK_PAGES) + 1) * PAGEBLOCK_PAGES);
      if (m.poolAt(m.sections.indexOf(toPfn(pfn))) === pool) {
        const last = out[out.length - 1];
        if (last !== undefined && last.endPfn === pfn) last.endPfn = stop;
        else out.push({ startPfn: pfn, endPfn: stop });
      }
      pfn = stop;
    }
  }
  return out;
}

/**
 * Frames of the pool that are placed and not managed: reserved, balloon, and what a block keeps aside as its own memmap.
 * Memmap frames elsewhere (a torn reading) are the kernel's like any others.
 */
function unmanagedIn(m: Machine, pool: Pool): number {
  let n = 0;
  for (let h = 0; h < m.holders.length; h++) {
    const cls = m.holders.specs[h]?.class;
    if (cls !== 'reserved' && cls !== 'balloon' && cls !== 'unplugged') continue;
    m.holders.forEachMember(h, (frame) => {
      const a = m.sections.allocationAt(frame);
      if (a !== undefined && m.poolAt(frame) === pool) n += 1 << a.order;
    });
  }
  for (let row = 0; row < m.blocks.length; row++) if (m.blocks.pool[row] === pool.id) n += m.blocks.vmemmapPages[row];
  return n;
}

const recount = (m: Machine, pool: Pool): number => pool.present - unmanagedIn(m, pool) - deferredIn(m, pool);

function deferredIn(m: Machine, pool: Pool): number {
  const h = m.holders.specs.findIndex((s) => s.name === HOLDER_DEFERRED);
  let n = 0;
  if (h >= 0) {
    m.holders.forEachMember(h, (frame) => {
      const a = m.sections.allocationAt(frame);
      if (a !== undefined && m.poolAt(frame) === pool) n += 1 << a.order;
    });
  }
  return n;
}

// ------------------------------------------------------------------------------------------------ step 5 and 6: free

/** Free chunks, ascending: index in the dense tables and order. */
type Chunks = { readonly index: Int32Array; readonly order: Uint8Array; readonly length: number };

/** Coalescing leaves no choice: a free span is cut into its largest aligned pieces. */
function chunksOf(m: Machine, free: readonly FrameRange[]): Chunks {
  const index: number[] = [];
  const order: number[] = [];
  for (const s of free) {
    for (let pfn = s.startPfn; pfn < s.endPfn; ) {
      let o = 0;
      while (o < MAX_ORDER && pfn % (2 << o) === 0 && pfn + (2 << o) <= s.endPfn) o++;
      index.push(m.sections.indexOf(toPfn(pfn)));
      order.push(o);
      pfn += 1 << o;
    }
  }
  return { index: Int32Array.from(index), order: Uint8Array.from(order), length: index.length };
}

type PoolUnits = {
  units: TypeUnits;
  /** First frame (dense index) of each unit. */
  start: Int32Array;
  /** Chunks of the pool. */
  index: number[];
  order: number[];
};

function unitsByPool(m: Machine, chunks: Chunks, placed: PlacedFrames): PoolUnits[] {
  const perPool: { index: number[]; order: number[] }[] = m.pools.map(() => ({ index: [], order: [] }));
  for (let k = 0; k < chunks.length; k++) {
    const pool = m.poolAt(chunks.index[k] as number);
    if (pool === undefined) continue;
    (perPool[pool.id] as { index: number[]; order: number[] }).index.push(chunks.index[k] as number);
    (perPool[pool.id] as { index: number[]; order: number[] }).order.push(chunks.order[k] as number);
  }
  return m.pools.map((pool) => {
    const { index, order } = perPool[pool.id] as { index: number[]; order: number[] };
    const unitOf = new Map<number, number>();
    const start: number[] = [];
    const pageblocks: number[] = [];
    // Pageblocks under a free chunk of order 10 are one unit.
    const wide = new Set<number>();
    for (let k = 0; k < index.length; k++) if (order[k] === MAX_ORDER) wide.add((index[k] as number) / CHUNK_PAGES);
    for (let i = pool.base; i < pool.base + pool.pages; i += PAGEBLOCK_PAGES) {
      if (m.poolAt(i) !== pool) continue;
      const second = i % CHUNK_PAGES !== 0 && wide.has((i - PAGEBLOCK_PAGES) / CHUNK_PAGES);
      if (second) {
        const u = unitOf.get(i - PAGEBLOCK_PAGES) as number;
        unitOf.set(i, u);
        pageblocks[u] = 2;
        continue;
      }
      unitOf.set(i, start.length);
      start.push(i);
      pageblocks.push(1);
    }
    const free = new Int32Array(start.length * NR_ORDERS);
    for (let k = 0; k < index.length; k++) {
      const i = index[k] as number;
      const u = unitOf.get(i - (i % PAGEBLOCK_PAGES)) as number;
      const cell = u * NR_ORDERS + (order[k] as number);
      free[cell] = (free[cell] as number) + 1;
    }
    const kernel = Uint8Array.from(start, (i) =>
      placed.kernelPageblocks.has(Math.floor(m.sections.pfnOf(i) / PAGEBLOCK_PAGES)) ? 1 : 0,
    );
    const units = { length: start.length, pageblocks: Uint8Array.from(pageblocks), free, kernel };
    return { units, start: Int32Array.from(start), index, order };
  });
}

function seedPool(pool: Pool, p: PoolUnits, pagetypes: Pagetypeinfo | undefined): void {
  const targets = pagetypes === undefined ? undefined : targetsOf(pool, pagetypes);
  const types =
    targets === undefined
      ? Uint8Array.from(p.units.kernel, (k) => (k === 1 ? 0 : MIGRATE_MOVABLE))
      : assignTypes(p.units, targets, new Prng(TYPE_SEED));
  for (let u = 0; u < p.units.length; u++) {
    for (let k = 0; k < (p.units.pageblocks[u] as number); k++) {
      const i = (p.start[u] as number) + k * PAGEBLOCK_PAGES - pool.base;
      const t = types[u] as number;
      if (pool.alloc.area.typeOf(i) !== t) pool.alloc.setPageblockType(i, t);
    }
  }
  for (let k = 0; k < p.index.length; k++) pool.alloc.put((p.index[k] as number) - pool.base, p.order[k] as number);
}

/** pagetypeinfo's rows of one zone, in the engine's type numbers; undefined when it has none. */
function targetsOf(pool: Pool, x: Pagetypeinfo): TypeTargets | undefined {
  const here = (l: { node: number; zone: string }): boolean => l.node === pool.node && l.zone === pool.name;
  const rows = x.free.filter(here);
  const blocks = x.blocks.find(here);
  if (rows.length === 0 || blocks === undefined) return undefined;
  const free = new Float64Array(8 * NR_ORDERS);
  const capped = new Uint8Array(8 * NR_ORDERS);
  const wanted = new Float64Array(8);
  const types: number[] = [];
  x.types.forEach((name, column) => {
    const t = (MIGRATE_NAMES as readonly string[]).indexOf(name);
    if (t < 0) return; // a type this engine does not know: its pages stay in the difference
    types.push(t);
    wanted[t] = blocks.counts[column] ?? 0;
    const row = rows.find((r) => r.type === name);
    for (let o = 0; o < NR_ORDERS && row !== undefined; o++) {
      free[t * NR_ORDERS + o] = row.nrFree[o] ?? 0;
      capped[t * NR_ORDERS + o] = row.capped[o] === true ? 1 : 0;
    }
  });
  return { types, free, capped, blocks: wanted };
}

// ---------------------------------------------------------------------------------------- step 7: spans and watermarks

/** Spans remember where a zone once reached (spec 1.6): the capture knows, and is believed if it covers the RAM there. */
function takeSpans(m: Machine, ranges: readonly RamRange[], zones: readonly ZoneinfoZone[]): void {
  for (const pool of m.pools) {
    const mine = ranges.filter((r) => r.node === pool.node && r.zone === pool.zone && r.offline !== true);
    if (mine.length === 0) continue;
    const start = Math.min(...mine.map((r) => r.start));
    const end = Math.max(...mine.map((r) => r.end));
    const z = zones.find((x) => x.node === pool.node && zoneIndexOf(x.zone) === pool.zone);
    const covers = z?.startPfn !== undefined && z.startPfn <= start && end <= z.startPfn + z.spanned;
    pool.startPfn = toPfn(covers ? (z.startPfn as number) : start);
    pool.endPfn = toPfn(covers ? (z.startPfn as number) + z.spanned : end);
  }
}

function takeWatermarks(m: Machine, zones: readonly ZoneinfoZone[]): void {
  for (const pool of m.pools) {
    const z = zones.find((x) => x.node === pool.node && zoneIndexOf(x.zone) === pool.zone);
    if (z === undefined) continue;
    const p = z.protection;
    pool.watermarks = {
      min: z.min,
      low: z.low,
      high: z.high,
      promo: z.promo ?? z.high,
      reserve: [p[0] ?? 0, p[1] ?? 0, p[2] ?? 0, p[3] ?? 0],
    };
  }
}
