// DMA rules: what a device demands of its buffers, as data; one form for all spellings; and which rule implies another.
//
//   { addrMax: { bits: 36 }, sameHighBits: 32, align: 64K }      what a driver writes
//        │ formOfRule: checks, then says the same thing in one way
//   { ranges: [0, 2^24 frames), windowBits: 32, boundaryBits: 32, alignBits: 16, ... key }
//        │ satisfies(a, b): every buffer that `a` allows, `b` allows too
//   a pool made for one rule may serve another
//
// A buffer is a list of segments, runs of whole frames. A form allows it if each segment begins at a multiple of
// 2^alignBits, lies in one aligned block of 2^boundaryBits and in `ranges`, there are at most maxSegments of them, and all
// buffers that live at one time lie in one aligned window of 2^windowBits.
//
// "32 bits the same" (Snook 2007) may be read in two ways, and a rule may use either:
//   sameHighBits n   the n high bits of a 64-bit address are the same:     window of 2^(64-n) bytes: 32 -> 4 GiB, 34 -> 1 GiB
//   windowBits k     buffers differ in the k low bits of the address only: window of 2^k bytes:      32 -> 4 GiB, 34 -> 16 GiB
//
// Invariants of a form: ranges are ascending and apart, and hold no frame that no segment reaches; boundaryBits <=
// windowBits <= the cover of the ranges; alignBits is the largest that allows the same segments. Hence two forms are equal
// if and only if their keys are, and `satisfies` is a partial order: a product of orders, one a field. It is also
// complete for what concerns addresses, but for maxSegments where memory is too small to have so many segments.
//
// The lifetime of a rule is no part of its form: it says when the pool ends, not which buffers fit; a shared pool lives as
// long as the longest of its users' rules says. After Snook 2007, problem 1 (spec 9.B). Power-of-two alignment and
// boundary as in Linux v6.12 mm/dmapool.c: dma_pool_create(); segments as in struct device_dma_parameters.

import { formatSize, hex } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { type NodeId, toNodeId } from '#base/units';
import { PAGE_SIZE } from '../geometry.ts';
import { type Refusal, refusal } from '../refusal.ts';
import {
  ALL_BITS,
  alignmentOf,
  coverOf,
  type Extent,
  extent,
  forEachPiece,
  framesOf,
  intersect,
  isSubset,
  normalise,
  PAGE_BITS,
  pagesOf,
  trimStarts,
} from './dma-extent.ts';

export type DmaLifetime = 'module' | 'boot';

export type DmaRule = {
  /** What the device can address: so many bits, or this address at most (inclusive). Default: all 64 bits. */
  readonly addrMax?: { readonly bits: number } | { readonly highest: number };
  /** All live buffers agree in the n high bits of a 64-bit address, 1..52. Default: no window. */
  readonly sameHighBits?: number;
  /** All live buffers lie in one aligned window of 2^k bytes, 12..63: the other spelling. */
  readonly windowBits?: number;
  /** Bytes, a power of two: each segment begins at a multiple. Below a page it is a page. Default: a page. */
  readonly align?: number;
  /** Bytes, a power of two, at least a page: no segment crosses a multiple. Default: none. */
  readonly boundary?: number;
  /** Scatter-gather entries of one buffer. Default: any number. */
  readonly maxSegments?: number;
  /** True is maxSegments 1. Default false. */
  readonly contiguous?: boolean;
  /** Where the device is: buffers come from these nodes only, or rather than from others. Default: anywhere. */
  readonly node?: { readonly nodes: readonly number[]; readonly strength: 'preferred' | 'required' };
  /** The CPU and the device see each other's writes at once. Default false: either will do. */
  readonly coherent?: boolean;
  /** Pages that an encrypted guest shares with its host. Default false: pages that it does not share. */
  readonly encryptedShared?: boolean;
  /** 'module': the pool ends with its last user. 'boot': it stays. Default 'module'. */
  readonly lifetime?: DmaLifetime;
};

/** Node numbers, ascending; undefined: all nodes. */
export type NodeSet = readonly NodeId[] | undefined;

export type DmaForm = {
  readonly ranges: readonly Extent[];
  /** 12..52; 52 for a single possible start at 0, which is a multiple of everything. */
  readonly alignBits: number;
  readonly boundaryBits: number;
  readonly windowBits: number;
  /** Infinity: any number. */
  readonly maxSegments: number;
  /** Frames of other nodes are not allowed. */
  readonly required: NodeSet;
  /** Frames of these nodes come first. A subset of `required`. */
  readonly near: NodeSet;
  readonly coherent: boolean;
  readonly encryptedShared: boolean;
  /** Equal forms have equal keys, others have not. One line of printable ASCII without blanks. */
  readonly key: string;
};

const FIELDS: ReadonlySet<string> = new Set<keyof DmaRule>([
  'addrMax',
  'sameHighBits',
  'windowBits',
  'align',
  'boundary',
  'maxSegments',
  'contiguous',
  'node',
  'coherent',
  'encryptedShared',
  'lifetime',
]);

const isWhole = (n: unknown, from: number, to: number): n is number =>
  typeof n === 'number' && Number.isInteger(n) && n >= from && n <= to;
const isPowerOfTwo = (n: unknown): n is number => isWhole(n, 1, 2 ** 63) && 2 ** Math.round(Math.log2(n)) === n;
const bad = (message: string): Result<never, Refusal> => err(refusal('bad-argument', message));

/**
 * Checks a rule and says it in its canonical form. The rule may come from a file: types are checked too.
 * @returns bad-argument (EINVAL) with one sentence that begins with the field, for a rule without meaning or one that
 *   contradicts itself
 */
export function formOfRule(rule: DmaRule): Result<DmaForm, Refusal> {
  for (const field of Object.keys(rule)) if (!FIELDS.has(field)) return bad(`${field}: a DMA rule has no such field`);

  const limit = limitOf(rule.addrMax); // bytes, may be 2^64
  if (!limit.ok) return limit;
  const window = windowOf(rule, limit.value);
  if (!window.ok) return window;

  const align = rule.align ?? PAGE_SIZE;
  if (!isPowerOfTwo(align)) return bad(`align: ${align} is not a power of two`);
  if (align > limit.value) return bad(`align: a multiple of ${formatSize(align)} is above addrMax, but for address 0`);
  const boundary = rule.boundary;
  if (boundary !== undefined) {
    if (!isPowerOfTwo(boundary)) return bad(`boundary: ${boundary} is not a power of two`);
    if (boundary < PAGE_SIZE) return bad(`boundary: ${boundary} is less than a page, ${PAGE_SIZE}`);
    if (boundary < align) return bad(`boundary: ${formatSize(boundary)} is less than align, ${formatSize(align)}`);
  }
  if (window.value < 64 && align > 2 ** window.value) {
    return bad(`align: ${formatSize(align)} is more than the window, ${formatSize(2 ** window.value)}`);
  }

  const { maxSegments, contiguous, coherent, encryptedShared, lifetime } = rule;
  if (maxSegments !== undefined && !isWhole(maxSegments, 1, Number.MAX_SAFE_INTEGER)) {
    return bad(`maxSegments: ${maxSegments} is not a whole number from 1`);
  }
  for (const [field, value] of Object.entries({ contiguous, coherent, encryptedShared })) {
    if (value !== undefined && typeof value !== 'boolean') return bad(`${field}: ${value} is neither true nor false`);
  }
  if (contiguous === true && maxSegments !== undefined && maxSegments > 1) {
    return bad(`maxSegments: ${maxSegments} segments contradict contiguous`);
  }
  if (lifetime !== undefined && lifetime !== 'module' && lifetime !== 'boot') {
    return bad(`lifetime: ${lifetime} is neither module nor boot`);
  }
  const nodes = nodesOf(rule.node);
  if (!nodes.ok) return nodes;

  return ok(
    canonical({
      ranges: [extent(0, Math.floor(Math.min(limit.value, 2 ** ALL_BITS) / PAGE_SIZE))],
      alignBits: Math.max(PAGE_BITS, Math.log2(align)),
      boundaryBits: boundary === undefined ? ALL_BITS : Math.min(ALL_BITS, Math.log2(boundary)),
      windowBits: Math.min(ALL_BITS, window.value),
      maxSegments: contiguous === true ? 1 : (maxSegments ?? Infinity),
      required: rule.node?.strength === 'required' ? nodes.value : undefined,
      near: nodes.value,
      coherent: coherent ?? false,
      encryptedShared: encryptedShared ?? false,
    }),
  );
}

/** Bytes below which the device can address: 2^64 stands for all. */
function limitOf(addrMax: DmaRule['addrMax']): Result<number, Refusal> {
  if (addrMax === undefined) return ok(2 ** 64);
  if (typeof addrMax !== 'object' || addrMax === null) return bad('addrMax: wants bits or highest');
  const { bits, highest } = addrMax as { bits?: unknown; highest?: unknown };
  if (bits !== undefined && highest !== undefined) return bad('addrMax: bits and highest are two spellings: give one');
  if (bits !== undefined) {
    return isWhole(bits, PAGE_BITS, 64) ? ok(2 ** bits) : bad(`addrMax: ${bits} bits are not 12 to 64`);
  }
  if (highest === undefined) return bad('addrMax: wants bits or highest');
  if (!isWhole(highest, 0, 2 ** 64)) return bad(`addrMax: ${highest} is no address`);
  if (highest < PAGE_SIZE - 1) return bad(`addrMax: no whole page lies below ${highest}`);
  return ok(highest >= 2 ** ALL_BITS ? 2 ** 64 : highest + 1);
}

/** Bits of the window; 64: none. */
function windowOf(rule: DmaRule, limit: number): Result<number, Refusal> {
  const { sameHighBits: n, windowBits: k } = rule;
  if (n !== undefined && !isWhole(n, 1, 64 - PAGE_BITS)) return bad(`sameHighBits: ${n} is not 1 to 52`);
  if (k !== undefined && !isWhole(k, PAGE_BITS, 63)) return bad(`windowBits: ${k} is not 12 to 63`);
  if (n !== undefined && k !== undefined && n + k !== 64) {
    return bad(`windowBits: ${k} is not 64 - ${n}, what sameHighBits says: give one of the two`);
  }
  const bits = k ?? (n === undefined ? 64 : 64 - n);
  if (bits < 64 && 2 ** bits > limit) {
    return bad(
      `${k === undefined ? 'sameHighBits' : 'windowBits'}: a window of ${formatSize(2 ** bits)} is above addrMax, which ends at ${formatSize(limit)}`,
    );
  }
  return ok(bits);
}

function nodesOf(node: DmaRule['node']): Result<NodeSet, Refusal> {
  if (node === undefined) return ok(undefined);
  if (typeof node !== 'object' || node === null) return bad('node: wants nodes and strength');
  const { nodes, strength } = node;
  if (strength !== 'preferred' && strength !== 'required') {
    return bad(`node: ${strength} is neither preferred nor required`);
  }
  if (!Array.isArray(nodes) || nodes.length === 0) return bad('node: wants at least one node');
  for (const n of nodes) if (!isWhole(n, 0, 1023)) return bad(`node: ${n} is no node, 0 to 1023`);
  return ok([...new Set(nodes)].sort((a, b) => a - b).map(toNodeId));
}

/**
 * The form of a pool that was made for a form and has, or may have, only these frames: a window that was chosen, say.
 * It satisfies the form; and it may satisfy more: a pool whose frames lie below 4 GiB serves 32-bit devices.
 */
export const restricted = (form: DmaForm, frames: readonly Extent[]): DmaForm =>
  canonical({ ...form, ranges: intersect(form.ranges, normalise(frames)) });

/** Takes away what says nothing: frames that no segment reaches, and numbers that allow more than the ranges do. */
function canonical(form: Omit<DmaForm, 'key'>): DmaForm {
  const ranges = trimStarts(form.ranges, form.alignBits);
  const windowBits = tightWindow(ranges, form.windowBits);
  const boundaryBits = tightBoundary(ranges, Math.min(form.boundaryBits, windowBits));
  const alignBits = tightAlign(ranges, form.alignBits);
  const tight = { ...form, ranges, windowBits, boundaryBits, alignBits };
  return { ...tight, key: keyOf(tight) };
}

/** The largest cover that a window's worth of the ranges has; an aligned block of this size says the same. */
function tightWindow(ranges: readonly Extent[], bits: number): number {
  let tight = PAGE_BITS;
  let window = -1;
  let from = 0;
  forEachPiece(ranges, bits, (w, start, end) => {
    if (w !== window) from = start;
    window = w;
    tight = Math.max(tight, coverOf(from, end));
  });
  return tight;
}

/** The largest cover that a segment may have. */
function tightBoundary(ranges: readonly Extent[], bits: number): number {
  let tight = PAGE_BITS;
  forEachPiece(ranges, bits, (_, start, end) => {
    tight = Math.max(tight, coverOf(start, end));
  });
  return tight;
}

/** The largest alignment that all possible starts have. An extent with a second start proves that it is no larger. */
function tightAlign(ranges: readonly Extent[], bits: number): number {
  let tight = ALL_BITS;
  for (const r of ranges) {
    tight = Math.min(tight, r.start + framesOf(bits) < r.end ? bits : alignmentOf(r.start));
  }
  return tight;
}

function keyOf(f: Omit<DmaForm, 'key'>): string {
  const nodes = (set: NodeSet): string => set?.join('.') ?? '*';
  return [
    `ranges=${f.ranges.map((r) => `${hex(r.start)}-${hex(r.end)}`).join('+')}`,
    `window=${f.windowBits}`,
    `boundary=${f.boundaryBits}`,
    `align=${f.alignBits}`,
    `segments=${f.maxSegments === Infinity ? '*' : f.maxSegments}`,
    `required=${nodes(f.required)}`,
    `near=${nodes(f.near)}`,
    f.coherent ? 'coherent' : 'any',
    f.encryptedShared ? 'shared' : 'private',
  ].join(',');
}

const isSubsetOf = (a: NodeSet, b: NodeSet): boolean =>
  b === undefined || (a !== undefined && a.every((n) => b.includes(n)));

/**
 * Every buffer that `a` allows, `b` allows: a pool of form `a` may serve a rule of form `b`. Reflexive, transitive, and
 * antisymmetric: two forms that satisfy each other are equal. Shared pages serve shared rules only, and private ones
 * private rules: the host reads what is shared, so neither is stricter than the other. O(extents).
 */
export const satisfies = (a: DmaForm, b: DmaForm): boolean =>
  a.encryptedShared === b.encryptedShared &&
  (a.coherent || !b.coherent) &&
  a.alignBits >= b.alignBits &&
  a.boundaryBits <= b.boundaryBits &&
  a.windowBits <= b.windowBits &&
  a.maxSegments <= b.maxSegments &&
  isSubsetOf(a.required, b.required) &&
  isSubsetOf(a.near, b.near) &&
  isSubset(a.ranges, b.ranges);

const sizeOf = (set: NodeSet): number => set?.length ?? Infinity;
/** Descending; Infinity equals Infinity. */
const more = (a: number, b: number): number => (a === b ? 0 : a > b ? -1 : 1);

/**
 * Least strict first, for sort(): a total order in which a form never comes before one that it satisfies. Forms that
 * reach highest come first, so that the memory which few devices can use is taken last.
 */
export const leastStrictFirst = (a: DmaForm, b: DmaForm): number =>
  more(a.ranges.at(-1)?.end ?? 0, b.ranges.at(-1)?.end ?? 0) ||
  more(pagesOf(a.ranges), pagesOf(b.ranges)) ||
  more(a.windowBits, b.windowBits) ||
  more(a.boundaryBits, b.boundaryBits) ||
  more(b.alignBits, a.alignBits) ||
  more(a.maxSegments, b.maxSegments) ||
  more(sizeOf(a.required), sizeOf(b.required)) ||
  more(sizeOf(a.near), sizeOf(b.near)) ||
  more(Number(b.coherent), Number(a.coherent)) ||
  (a.key < b.key ? -1 : a.key > b.key ? 1 : 0);
