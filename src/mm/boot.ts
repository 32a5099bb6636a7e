// Boot: how a machine comes to be, from its spec. Layout first, then pools, then frames.
//
//   spec ──obeyed──> what mem= leaves of it ──layOut──> present sections, memory blocks, nodes ──bootPools──> one pool for
//   each (node, zone), its hull and its pageblocks ──bootFrames──> holes marked, reserved ranges placed, huge pages of
//   1 GiB set aside (boot-hugepages.ts), all else handed to the allocators
//
// RAM that comes whole is handed over lazily (free-area.ts: online), so that the cost is O(sections + ragged edges).
// A pageblock that a zone border cuts belongs to the pool of its first frame.
//
// Follows Linux v6.12 mm/mm_init.c: free_area_init(), memblock_free_all() (spec 1.2 to 1.5).

import { assert } from '#base/assert';
import { type NodeId, type Pfn, toPfn } from '#base/units';
import { bootGigantic } from './boot-hugepages.ts';
import {
  CHUNK_PAGES,
  DMA_END,
  DMA32_END,
  memoryBlockSize,
  PAGE_SIZE,
  PAGEBLOCK_ORDER,
  PAGEBLOCK_PAGES,
  PAGES_PER_SECTION,
} from './geometry.ts';
import type { Machine } from './machine.ts';
import { type MachineSpec, movableOf, type RamRange, type ZonedRange, zonesOf } from './machine-spec.ts';
import { BLOCK_OFFLINE, BLOCK_ONLINE, MemoryBlocks } from './memory-block.ts';
import { ZONE_DMA, ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL } from './page-class.ts';
import { Pool, type PoolConfig } from './pool.ts';
import type { ResourceSpec } from './resource.ts';
import { KIND_ABSENT, Sections } from './section.ts';
import { growSpan } from './zone-span.ts';

const OFFSET_MASK = PAGES_PER_SECTION - 1;
const NO_POOL = -1;

export type Layout = {
  /** RAM cut at zone borders, ascending. */
  readonly zoned: readonly ZonedRange[];
  readonly blockPages: number;
  readonly sections: Sections;
  readonly blocks: MemoryBlocks;
  readonly nodes: readonly NodeId[];
};

/** What exists. A spec that contradicts itself throws. */
export function layOut(spec: MachineSpec): Layout {
  const zoned = zonesOf(spec);
  assert(zoned.length > 0, 'a machine needs RAM');
  const endOfRam = (zoned[zoned.length - 1] as ZonedRange).end;
  const size = memoryBlockSize(endOfRam * PAGE_SIZE, {
    hypervisor: spec.hypervisor ?? true,
    ...(spec.blockSize === undefined ? {} : { override: spec.blockSize }),
  });
  assert(size.ok, 'a memory block is a power of two from 128 MiB to 64 GiB', { blockSize: spec.blockSize });
  const blockPages = size.value / PAGE_SIZE;
  const sections = new Sections(0);
  const blockIds = new Set<number>();
  for (const r of zoned) {
    const first = Math.floor(r.start / PAGES_PER_SECTION);
    const end = Math.ceil(r.end / PAGES_PER_SECTION);
    for (let n = first; n < end; n++) {
      if (sections.slotOf(n) < 0) sections.add(n);
      blockIds.add(Math.floor((n * PAGES_PER_SECTION) / blockPages));
    }
  }
  const blocks = new MemoryBlocks(Float64Array.from(blockIds).sort());
  // A node with CPUs and no RAM is online from boot as well; a possible one comes with its first memory.
  const withCpus = [...(spec.cpuMask ?? [])].filter(([, cpus]) => cpus.length > 0).map(([node]) => node);
  const nodes = [...new Set([...zoned.map((r) => r.node), ...withCpus])].sort((a, b) => a - b);
  return { zoned, blockPages, sections, blocks, nodes };
}

/** One pool for each node and zone that has RAM, with its hull, span and pageblocks; Normal and Movable on every node. */
export function bootPools(m: Machine, zoned: readonly ZonedRange[]): void {
  const config = poolConfig(m);
  const movable = movableOf(m.spec);
  const named = new Set(m.spec.ram.filter((r) => r.zone !== undefined).map((r) => r.node));
  for (const node of m.nodes) {
    for (const zone of [0, 1, 2, 3] as const) {
      const mine = zoned.filter((r) => r.node === node && r.zone === zone && !r.offline);
      // Empty Normal and Movable pools exist on every node, so that a block can be onlined into them.
      if (mine.length === 0 && zone < ZONE_NORMAL) continue;
      const id = m.pools.length;
      assert(id < 32768, 'too many pools', { id });
      const hull =
        mine.length === 0
          ? { base: 0, pages: CHUNK_PAGES }
          : hullOf(m, (mine[0] as ZonedRange).start, (mine[mine.length - 1] as ZonedRange).end);
      const pool = new Pool(id, { node, zone }, hull, config);
      addZone(m, pool);
      if (mine.length === 0) continue;
      const online = zoned.filter((r) => r.node === node && !r.offline);
      const span = named.has(node)
        ? spanOfNamed(zone, mine, online)
        : spanAtBoot(zone, online, movable.start.get(node), movable);
      pool.startPfn = toPfn(span.start);
      pool.endPfn = toPfn(span.end);
    }
  }
  for (const r of zoned) if (!r.offline) claimPageblocks(m, poolOfRange(m, r), r.start, r.end);
}

type Span = { readonly start: number; readonly end: number };

/** What a zone spans on a node as it boots: from border to border, as far as the node's memory goes (spec 1.4). */
function spanAtBoot(
  zone: number,
  online: readonly ZonedRange[],
  movable: Pfn | undefined,
  boot: { mirror: boolean },
): Span {
  const node = { start: (online[0] as ZonedRange).start, end: (online[online.length - 1] as ZonedRange).end };
  if (zone === ZONE_MOVABLE) return { start: movable ?? node.start, end: node.end };
  const [low, high] =
    zone === ZONE_DMA ? [0, DMA_END] : zone === ZONE_DMA32 ? [DMA_END, DMA32_END] : [DMA32_END, node.end];
  const start = Math.min(Math.max(node.start, low), high);
  const end = Math.min(node.end, high);
  // Linux: adjust_zone_range_for_zone_movable(). With kernelcore=mirror the two zones overlap instead.
  const cut = movable !== undefined && !boot.mirror && start < movable && movable < end;
  return { start, end: cut ? movable : end };
}

/**
 * The same for ranges that name their zones, which may have come and gone since boot: a kernel zone reaches to its
 * border, RAM there or not, where its node has memory beyond; but not into Movable.
 */
function spanOfNamed(zone: number, mine: readonly ZonedRange[], online: readonly ZonedRange[]): Span {
  const first = mine[0] as ZonedRange; // the caller has at least one
  const last = mine[mine.length - 1] as ZonedRange;
  const beyond = online.filter((r) => r.start >= last.end);
  const movable = beyond.find((r) => r.zone === ZONE_MOVABLE)?.start ?? Number.POSITIVE_INFINITY;
  const border = zone === ZONE_DMA ? DMA_END : zone === ZONE_DMA32 ? DMA32_END : last.end;
  return { start: first.start, end: beyond.length === 0 ? last.end : Math.max(last.end, Math.min(border, movable)) };
}

/** Empty Normal and Movable pools for a node that is new; those that it left behind when it went are taken again. */
export function addPools(m: Machine, node: NodeId): void {
  for (const zone of [ZONE_NORMAL, ZONE_MOVABLE] as const) {
    if (m.zones.some((p) => p.node === node && p.zone === zone)) continue;
    addZone(m, new Pool(m.pools.length, { node, zone }, { base: 0, pages: CHUNK_PAGES }, poolConfig(m)));
  }
}

function addZone(m: Machine, pool: Pool): void {
  m.pools.push(pool);
  m.zones.push(pool);
}

/** A pool of the same identity and hull in this machine, for copyFrom. */
export function poolLike(m: Machine, p: Pool): Pool {
  const identity = { node: p.node, zone: p.zone, ...(p.kind === 'user' && { name: p.name }) };
  return new Pool(p.id, identity, { base: p.base, pages: p.pages }, p.kind === 'user' ? p.config : poolConfig(m));
}

/** The RAM as /proc/iomem shows it where nothing else is known: neighbours joined, whole. */
export function systemRam(ram: readonly RamRange[]): ResourceSpec[] {
  const out: { start: number; end: number; name: string }[] = [];
  for (const r of [...ram].sort((a, b) => a.start - b.start)) {
    const last = out[out.length - 1];
    if (last !== undefined && last.end + 1 === r.start * PAGE_SIZE) last.end = r.end * PAGE_SIZE - 1;
    else out.push({ start: r.start * PAGE_SIZE, end: r.end * PAGE_SIZE - 1, name: 'System RAM' });
  }
  return out;
}

/** Holes, reserved ranges, free frames, and the blocks that they make up. */
export function bootFrames(m: Machine, zoned: readonly ZonedRange[]): void {
  markAbsent(m, zoned);
  bootReserved(m, zoned);
  bootBlocks(m, zoned);
}

/** What all pools of a machine share. */
export function poolConfig(m: Machine): PoolConfig {
  return {
    placement: m.spec.placement ?? 'address',
    cpus: m.spec.cpus ?? 1,
    code: m.spec.code ?? 'own',
    movableIn: (index) => m.movableIn(index),
    pfnOf: (index) => m.sections.pfnOf(index),
    kernel: m.profile,
    ...(m.spec.compat === 'linux' && { pcp: 'linux' as const }),
  };
}

function poolOfRange(m: Machine, r: ZonedRange): Pool {
  return m.pools.find((p) => p.node === r.node && p.zone === r.zone) as Pool; // made in bootPools
}

function hullOf(m: Machine, start: Pfn, end: Pfn): { base: number; pages: number } {
  const first = m.sections.indexOf(start);
  const last = m.sections.indexOf(toPfn(end - 1));
  const base = first - (first % CHUNK_PAGES);
  return { base, pages: Math.ceil((last + 1 - base) / CHUNK_PAGES) * CHUNK_PAGES };
}

/** Gives a range's pageblocks to its pool, but for a first one that the range before it has already. */
function claimPageblocks(m: Machine, pool: Pool, start: Pfn, end: Pfn): void {
  for (let pfn: number = start; pfn < end; ) {
    const index = m.sections.indexOf(toPfn(pfn));
    const pb = index >>> PAGEBLOCK_ORDER;
    const owner = m.poolAt(index) ?? pool;
    const stop = owner === pool ? PAGES_PER_SECTION : (index & OFFSET_MASK & -PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES;
    const pages = Math.min(end - pfn, stop - (index & OFFSET_MASK));
    m.owners.setZone(pb, ((index + pages - 1) >>> PAGEBLOCK_ORDER) + 1, owner.id);
    owner.present += pages;
    if (owner !== pool) growSpan(owner, pfn, pfn + pages);
    pfn += pages;
  }
}

/** Frames of present sections that no RAM range covers. */
function markAbsent(m: Machine, zoned: readonly ZonedRange[]): void {
  const hole = (start: number, end: number): void => {
    for (let pfn = start; pfn < end; pfn++) {
      const index = m.sections.indexOf(toPfn(pfn));
      m.sections.setMeta(index, KIND_ABSENT);
    }
  };
  let at = 0;
  for (const r of zoned) {
    // Only the parts of the gap that lie in present sections: the tail of the last one, the head of this one.
    const tailEnd = Math.min(r.start, Math.ceil(at / PAGES_PER_SECTION) * PAGES_PER_SECTION);
    hole(at, tailEnd);
    hole(Math.max(tailEnd, Math.floor(r.start / PAGES_PER_SECTION) * PAGES_PER_SECTION), r.start);
    at = r.end;
  }
  hole(at, Math.ceil(at / PAGES_PER_SECTION) * PAGES_PER_SECTION);
}

function bootReserved(m: Machine, zoned: readonly ZonedRange[]): void {
  const named = [...(m.spec.reserved ?? [])].sort((a, b) => a.start - b.start);
  for (const r of named) {
    const holder = m.addHolder({ class: 'reserved', name: r.name });
    const inRam = zoned.reduce((n, z) => n + Math.max(0, Math.min(r.end, z.end) - Math.max(r.start, z.start)), 0);
    assert(inRam === r.end - r.start, 'a reserved range is not RAM throughout', r);
    m.place(holder, r.start, r.end);
  }
  if (m.spec.populate === 'nothing') return;
  const reserved = [...named, ...bootGigantic(m, zoned, named)].sort((a, b) => a.start - b.start);
  for (const z of zoned) {
    if (z.offline) continue;
    let at: number = z.start;
    for (const r of reserved) {
      if (r.end <= at || r.start >= z.end) continue;
      if (r.start > at) bootFree(m, at, r.start);
      at = Math.max(at, r.end);
    }
    if (at < z.end) bootFree(m, at, z.end);
  }
  for (const p of m.pools) p.alloc.drain();
}

/** Hands [start, end) to the allocators of the pools that own it. */
function bootFree(m: Machine, start: number, end: number): void {
  for (let pfn = start; pfn < end; ) {
    const index = m.sections.indexOf(toPfn(pfn));
    const pool = m.poolAt(index) as Pool; // every RAM pageblock was claimed
    // The dense index runs on through neighbouring slots: extend over whole sections while the pool stays the same.
    // Only a range's first pageblock can be another pool's.
    const next = (index - (index % PAGEBLOCK_PAGES) + PAGEBLOCK_PAGES) % PAGES_PER_SECTION;
    const cut = next !== 0 && m.poolAt(index - (index & OFFSET_MASK) + next) !== pool;
    let run = Math.min(end - pfn, (cut ? next : PAGES_PER_SECTION) - (index & OFFSET_MASK));
    while (
      !cut &&
      pfn + run < end &&
      m.sections.indexOf(toPfn(pfn + run)) === index + run &&
      m.poolAt(index + run) === pool
    ) {
      run = Math.min(end - pfn, run + PAGES_PER_SECTION);
    }
    pool.fill(index, index + run);
    pool.managed += run;
    pfn += run;
  }
}

function bootBlocks(m: Machine, zoned: readonly ZonedRange[]): void {
  const { blocks } = m;
  for (let row = 0; row < blocks.length; row++) {
    const start = (blocks.id[row] as number) * m.blockPages;
    const end = start + m.blockPages;
    let present = 0;
    let offline = 0;
    const pools = new Set<number>();
    for (const z of zoned) {
      const n = Math.min(end, z.end) - Math.max(start, z.start);
      if (n <= 0) continue;
      present += n;
      if (blocks.node[row] === -1) blocks.node[row] = z.node;
      if (z.offline) offline += n;
      else pools.add(poolOfRange(m, z).id);
    }
    assert(offline === 0 || offline === present, 'offline RAM is whole memory blocks', {
      block: blocks.id[row],
      offline,
    });
    blocks.state[row] = pools.size > 0 ? BLOCK_ONLINE : BLOCK_OFFLINE;
    blocks.absent[row] = m.blockPages - present;
    blocks.pool[row] = pools.size === 1 ? ([...pools][0] as number) : NO_POOL;
  }
}
