// Sets: one allocation on each of k nodes, all of them or none. For replicas: one copy of a page near each CPU.
//
//   offset any     node 0  │....▓▓..│     each node gives what it likes
//                  node 1  │▓▓......│
//   offset same    node 0  │....▓▓..│     the same distance from where its memory begins on every node, so that one copy's
//                  node 1  │....▓▓..│     address is another's plus a constant
//
//   a member is taken   from a node (its zones, as an ordinary request on that node would) or from a pool that has frames
//                       of one node, and from nowhere else: a fallback to another node is a failure
//   a member fails      those before it are given back, in reverse; the refusal says which node it was
//
// `same` looks before it takes: window by window of a chunk, from the lowest offset on, it intersects what is free on all
// nodes, and takes the first aligned run. Pageblocks of the request's own type come first, then those of the others. With no
// common run the node that failed is the first one that has none in common with those before it.
//
// Where a node's memory begins is its first frame, aligned down to a chunk; pools count from there too, so that a set may
// mix nodes and pools. Invariant: a refusal leaves every counter as it was. Spec 9.A, semantics 10. After Snook 2007:
// "replicating pages across multiple nodes requires coordinated allocation on multiple nodes".

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type HolderId, type NodeId, type Order, type Pfn, toNodeId, toPfn } from '#base/units';
import { takeFreeFrames } from '../free-frames.ts';
import { CHUNK_PAGES, MAX_ORDER, NR_PCP_TYPES } from '../geometry.ts';
import {
  type HolderSpec,
  REQUEST_TYPE_MASK,
  REQUEST_UNMANAGED,
  REQUEST_ZONE_MASK,
  REQUEST_ZONE_SHIFT,
} from '../holder.ts';
import type { Machine } from '../machine.ts';
import type { ZoneIndex } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import { type Refusal, refusal } from '../refusal.ts';
import { labelsOf } from './pool-fit.ts';
import { requestRow } from './pool-requests.ts';
import { may, type Principal, poolNamed, ROOT } from './pool-table.ts';

export type AllocSetSpec = {
  /** Where the members come from, in this order: nodes by number, pools by name. Each of another node. */
  readonly on: readonly (number | string)[];
  /** Who gets them: one holder for all, whose next indexes they are, or one for each. */
  readonly holders: readonly HolderId[];
  readonly order: Order;
  readonly offset: 'same' | 'any';
};

export type SetMember = { readonly node: NodeId; readonly pfn: Pfn };

/** Why there is no set, and which node stood in the way; undefined: the request itself was wrong. */
export type SetRefusal = Refusal & { readonly node: NodeId | undefined };

/** One member's source. */
type Source = {
  readonly node: NodeId;
  readonly holder: HolderId;
  /** The pool's name, or "node 1". */
  readonly name: string;
  /** A row of Machine.requests; undefined: the node's zones. */
  readonly row: number | undefined;
  /** Where frames may come from, and how many have to stay free there. The best one first. */
  readonly pools: readonly { readonly pool: Pool; readonly floor: number }[];
  /** What the holder asks for, 0..2. */
  readonly type: number;
  /** The node's memory: first frame number, aligned down to a chunk, and chunks from there on. */
  readonly span: { readonly origin: number; readonly chunks: number };
};

const refuse = (
  reason: Parameters<typeof refusal>[0],
  message: string,
  node?: NodeId,
): { ok: false; error: SetRefusal } => err({ ...refusal(reason, message), node });

/**
 * Allocates a set.
 *
 * @returns its members, in the order of `on`. EINVAL: no or two sources of one node, holders that do not match. ENOENT: no
 *          such node or pool. EPERM: without `alloc` on a pool; nodes are root's. ENOMEM: with the node that has none.
 *          Cost: k allocations; `same` O(chunks of the largest node x k)
 */
export function allocSet(m: Machine, spec: AllocSetSpec, as: Principal): Result<SetMember[], SetRefusal> {
  const { on, holders, order } = spec;
  if (on.length === 0 || (holders.length !== 1 && holders.length !== on.length)) {
    return refuse('bad-argument', `${on.length} members for ${holders.length} holders: one for all, or one for each`);
  }
  if (!Number.isInteger(order) || order < 0 || order > MAX_ORDER) {
    return refuse('bad-argument', `${order} is no order from 0 to ${MAX_ORDER}`);
  }
  const sources: Source[] = [];
  for (const [k, where] of on.entries()) {
    const source = sourceOf(m, where, holders[k] ?? (holders[0] as HolderId), as);
    if (!source.ok) return source;
    const { node } = source.value;
    if (sources.some((s) => s.node === node)) return refuse('bad-argument', `two members on node ${node}`, node);
    sources.push(source.value);
  }
  return spec.offset === 'any' ? takeAny(m, sources, order) : takeSame(m, sources, order);
}

function sourceOf(m: Machine, where: number | string, holder: HolderId, as: Principal): Result<Source, SetRefusal> {
  const request = m.holders.request[holder];
  if (request === undefined) return refuse('bad-argument', `there is no holder ${holder}`);
  const top = ((request >>> REQUEST_ZONE_SHIFT) & REQUEST_ZONE_MASK) as ZoneIndex; // two bits
  const type = request & REQUEST_TYPE_MASK;
  if (typeof where === 'number') {
    if (!m.nodes.includes(toNodeId(where))) return refuse('no-such-pool', `there is no node ${where}`);
    const node = toNodeId(where);
    if (as !== ROOT) return refuse('permission', `${as} may not allocate from node ${node}: it names no pool`, node);
    const zones = [...m.zonelist(node, top)].map((id) => m.pools[id] as Pool).filter((z) => z.node === node);
    const pools = zones.map((pool) => ({ pool, floor: pool.marks[top] as number }));
    return ok({ node, holder, name: `node ${node}`, row: undefined, pools, type, span: spanOf(m, node) });
  }
  const attrs = poolNamed(m, where);
  if (attrs === undefined) return refuse('no-such-pool', `there is no pool ${where}`);
  const pool = m.pools[attrs.id] as Pool;
  const nodes = new Set(labelsOf(m, pool).map((z) => z.node));
  const node = [...nodes][0] ?? (attrs.nodes[0] as NodeId);
  if (nodes.size > 1) return refuse('bad-argument', `pool ${where} has frames of ${nodes.size} nodes`, node);
  if (!may(attrs, as, 'alloc')) return refuse('permission', `${as} may not allocate from pool ${where}`, node);
  if ((request & REQUEST_UNMANAGED) !== 0) {
    const { class: cls } = m.holders.specs[holder] as HolderSpec;
    return refuse('bad-argument', `${cls} frames are not managed: no pool can have them`, node);
  }
  const row = requestRow(m, attrs.id, as);
  const compiled = m.requests[row];
  assert(compiled !== undefined, 'a request row that is none', { row });
  const floor = attrs.kind === 'zone' ? (pool.marks[top] as number) : compiled.floor;
  const usable = compiled.allowed && pool.zone <= top;
  const pools = usable ? [{ pool, floor }] : [];
  return ok({ node, holder, name: pool.title, row, pools, type, span: spanOf(m, node) });
}

/** Where a node's memory begins, and how many chunks it spans from there on. */
function spanOf(m: Machine, node: NodeId): { origin: number; chunks: number } {
  const zones = m.zones.filter((z) => z.node === node && z.spanned > 0);
  if (zones.length === 0) return { origin: 0, chunks: 0 };
  const first = Math.min(...zones.map((z) => z.startPfn));
  const origin = first - (first % CHUNK_PAGES);
  const end = Math.max(...zones.map((z) => z.endPfn));
  return { origin, chunks: Math.ceil((end - origin) / CHUNK_PAGES) };
}

function undo(m: Machine, members: readonly SetMember[]): void {
  for (const { pfn } of [...members].reverse()) m.free(pfn);
}

function takeAny(m: Machine, sources: readonly Source[], order: Order): Result<SetMember[], SetRefusal> {
  const members: SetMember[] = [];
  for (const s of sources) {
    const options = s.row === undefined ? { node: s.node, thisNode: true } : { pool: s.row };
    const pfn = m.alloc(s.holder, order, options);
    const failed = pfn === -1;
    if (!failed) {
      members.push({ node: s.node, pfn });
      if (m.zoneAt(m.sections.indexOf(pfn))?.node === s.node) continue;
    }
    undo(m, members);
    const why = failed ? (m.lastRefusal as Refusal).message : `${s.name} has none, its fallback is another node's`;
    return refuse('no-memory', `node ${s.node}: ${why}`, s.node);
  }
  return ok(members);
}

function takeSame(m: Machine, sources: readonly Source[], order: Order): Result<SetMember[], SetRefusal> {
  for (const s of sources) for (const { pool } of s.pools) pool.alloc.drain();
  const size = 2 ** order;
  const chunks = Math.max(...sources.map((s) => s.span.chunks)); // a shorter node has nothing free in what it lacks
  const common = new Uint32Array(CHUNK_PAGES / 32);
  const free = new Uint32Array(CHUNK_PAGES / 32);
  let agreed = 0; // the most nodes, from the first on, that have a run in common
  for (const types of ['own', 'any'] as const) {
    for (let c = 0; c < chunks; c++) {
      common.fill(0xffffffff);
      let at = 0;
      for (let k = 0; k < sources.length && at >= 0; k++) {
        freeInChunk(m, sources[k] as Source, c, size, types, free);
        for (let w = 0; w < common.length; w++) common[w] = (common[w] as number) & (free[w] as number);
        at = alignedRun(common, size);
        if (at >= 0) agreed = Math.max(agreed, k + 1);
      }
      if (at < 0) continue;
      return ok(sources.map((s) => takeAt(m, s, s.span.origin + c * CHUNK_PAGES + at, order)));
    }
  }
  const failed = sources[agreed] as Source; // had all of them agreed, the set would have been taken
  const before = sources.slice(0, agreed).map((s) => s.name);
  const where = before.length === 0 ? '' : ` where ${before.join(', ')} ${before.length > 1 ? 'have' : 'has'} one`;
  m.vmstat.pgalloc_fail++;
  return refuse('no-memory', `${failed.name}: no free run of ${size} frames${where}`, failed.node);
}

/** Marks frames of the source's chunk c that are free and may be taken, a bit each. Cost O(free pieces in it). */
function freeInChunk(m: Machine, s: Source, c: number, size: number, types: 'own' | 'any', out: Uint32Array): void {
  out.fill(0);
  const start = m.sections.indexOf(toPfn(s.span.origin + c * CHUNK_PAGES)); // a chunk lies in one section
  if (start < 0) return;
  for (const { pool, floor } of s.pools) {
    const first = start - pool.base;
    if (first < 0 || first >= pool.pages || (pool.nrFree[0] as number) - size < floor) continue;
    const own = pool.typeFor[s.type] as number;
    pool.alloc.area.forEachFree(first, first + CHUNK_PAGES, (i, order, mt) => {
      if (types === 'own' ? mt !== own : mt >= NR_PCP_TYPES) return;
      for (let x = i - first; x < i - first + 2 ** order; x++)
        out[x >>> 5] = (out[x >>> 5] as number) | (1 << (x & 31));
    });
  }
}

/** The lowest multiple of `size`, a power of two, from which on `size` bits are set; -1 if there is none. */
function alignedRun(bits: Uint32Array, size: number): number {
  if (size < 32) {
    const run = 2 ** size - 1;
    for (let w = 0; w < bits.length; w++) {
      const word = bits[w] as number;
      if (word === 0) continue;
      for (let x = 0; x < 32; x += size) if (((word >>> x) & run) === run) return 32 * w + x;
    }
    return -1;
  }
  const words = size / 32;
  for (let w = 0; w < bits.length; w += words) {
    let whole = true;
    for (let k = w; k < w + words && whole; k++) whole = bits[k] === 0xffffffff;
    if (whole) return 32 * w;
  }
  return -1;
}

/** 2^order free frames at `pfn` become the source's holder's. */
function takeAt(m: Machine, s: Source, pfn: number, order: Order): SetMember {
  const index = m.sections.indexOf(toPfn(pfn));
  const pool = m.poolAt(index) as Pool; // freeInChunk saw them free in a pool of the source
  takeFreeFrames(pool, index, index + 2 ** order);
  m.occupy(s.holder, index, order);
  if (((m.holders.request[s.holder] as number) & REQUEST_UNMANAGED) !== 0) pool.managed -= 2 ** order;
  if (pool.kind === 'zone') pool.numa.hit++;
  return { node: s.node, pfn: toPfn(pfn) };
}
