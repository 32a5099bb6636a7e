// ChunkIndex: the chunks of one pool by what it would cost to empty them. The cheapest is known at any time.
//
//   A tournament: leaves are chunks in ascending order, each inner node names the winner of its two children, the root
//   names the winner of all. The lower cost wins, and the lower chunk among equals.
//
//     winner                     5                    [1]         A chunk that costs INFINITE is no player: its leaf is -1,
//                        1               5            [2..3]      and so is a node all of whose leaves are. A query walks
//                    1      -1      5        7        [4..7]      down to winners only, so that such a chunk is never
//     chunk        0   1   2   3   4   5   6   7      [8..15]     looked at, however many there are.
//     cost         9   4   ∞   ∞   ∞   0   8   3
//
//   column   type    length     meaning
//   winner   Int32   2 * span   leaf position of the winner below node k; [span + i] is leaf i itself; -1 = nobody
//   cost     Int32   span       by leaf; meaningful where its leaf is not -1
//
// `span` is a power of two, `base` the chunk of leaf 0. A pool's hull moves and widens: a chunk outside makes a wider
// table, at least twice as large, so that growing costs O(1) a chunk in the long run.
//
// Invariants: CX1 the root names what a linear scan would find; CX2 players = leaves that are not -1.
// After Snook 2007: "by tracking the utilization of large memory chunks we can tell which ones would be cheapest to
// reclaim", and avoid "wasting cycles on unreclaimable memory" (spec 9.A, semantics 7).

import { assert } from '#base/assert';

/** The cost of a chunk that cannot be emptied. Finite costs are below it. */
export const INFINITE = 2 ** 30;

const NOBODY = -1;
const MIN_SPAN = 16;

export type RankedChunk = { readonly chunk: number; readonly cost: number };

export class ChunkIndex {
  /** Leaves that queries have looked at. Tests read it: chunks that cost INFINITE never count. */
  visits = 0;
  /** Chunks in the index that cost less than INFINITE. */
  players = 0;
  #base = 0;
  #span = MIN_SPAN;
  #winner = new Int32Array(2 * MIN_SPAN).fill(NOBODY);
  #cost = new Int32Array(MIN_SPAN);

  /** The chunk costs so much from now on. `cost` is a whole number, 0 to INFINITE. Cost O(log n). */
  set(chunk: number, cost: number): void {
    if (cost >= INFINITE) return this.remove(chunk);
    assert(cost >= 0 && Number.isInteger(cost), 'a cost is a whole number', { chunk, cost });
    if (chunk < this.#base || chunk >= this.#base + this.#span) this.#cover(chunk);
    const leaf = chunk - this.#base;
    const node = this.#span + leaf;
    if (this.#winner[node] === NOBODY) this.players++;
    else if (this.#cost[leaf] === cost) return;
    this.#winner[node] = leaf;
    this.#cost[leaf] = cost;
    this.#replay(leaf);
  }

  /** The chunk is not the pool's any more, or cannot be emptied. Idempotent. Cost O(log n). */
  remove(chunk: number): void {
    const leaf = chunk - this.#base;
    if (leaf < 0 || leaf >= this.#span || this.#winner[this.#span + leaf] === NOBODY) return;
    this.players--;
    this.#winner[this.#span + leaf] = NOBODY;
    this.#replay(leaf);
  }

  /** What a chunk costs; INFINITE where it is not in the index. */
  costOf(chunk: number): number {
    const leaf = chunk - this.#base;
    const known = leaf >= 0 && leaf < this.#span && this.#winner[this.#span + leaf] !== NOBODY;
    return known ? (this.#cost[leaf] as number) : INFINITE;
  }

  /** The cheapest chunk, the lowest of equals; -1 when there is none. O(1), one visit. */
  argmin(): number {
    const leaf = this.#winner[1] as number;
    if (leaf === NOBODY) return -1;
    this.visits++;
    return this.#base + leaf;
  }

  /**
   * The `n` cheapest chunks, ascending by (cost, chunk); fewer when there are not so many.
   *
   * Best first: a heap of nodes by their winner; the node that comes out gives its winner, and the siblings on the way
   * down to that leaf come in. Cost O(n log span log n), n visits.
   */
  top(n: number): RankedChunk[] {
    const out: RankedChunk[] = [];
    const heap: number[] = [];
    if (this.#winner[1] !== NOBODY) heap.push(1);
    while (out.length < n && heap.length > 0) {
      let node = this.#pop(heap);
      const leaf = this.#winner[node] as number;
      this.visits++;
      out.push({ chunk: this.#base + leaf, cost: this.#cost[leaf] as number });
      while (node < this.#span) {
        const left = 2 * node;
        const down = this.#winner[left] === leaf ? left : left + 1;
        if (this.#winner[down ^ 1] !== NOBODY) this.#push(heap, down ^ 1);
        node = down;
      }
    }
    return out;
  }

  bytes(): number {
    return this.#winner.byteLength + this.#cost.byteLength;
  }

  /** CX1 and CX2, in words; empty when sound. Cost O(span). */
  check(): string[] {
    const wrong: string[] = [];
    let players = 0;
    let best = NOBODY;
    for (let leaf = 0; leaf < this.#span; leaf++) {
      if (this.#winner[this.#span + leaf] === NOBODY) continue;
      players++;
      if (best === NOBODY || (this.#cost[leaf] as number) < (this.#cost[best] as number)) best = leaf;
    }
    if (best !== this.#winner[1]) wrong.push(`CX1 the cheapest is leaf ${best}, the root says ${this.#winner[1]}`);
    if (players !== this.players) wrong.push(`CX2 ${players} chunks play, counted ${this.players}`);
    return wrong;
  }

  /** The matches on the way from a leaf to the root, until one ends as before and the leaf had no part in it. */
  #replay(leaf: number): void {
    const winner = this.#winner;
    const cost = this.#cost;
    for (let node = (this.#span + leaf) >>> 1; node >= 1; node >>>= 1) {
      const a = winner[2 * node] as number;
      const b = winner[2 * node + 1] as number;
      // The left one is the lower chunk: it wins a draw.
      const wins = a === NOBODY || (b !== NOBODY && (cost[b] as number) < (cost[a] as number)) ? b : a;
      if (winner[node] === wins && wins !== leaf) return;
      winner[node] = wins;
    }
  }

  /** Does node a's winner come before node b's? Neither is nobody. */
  #before(a: number, b: number): boolean {
    const x = this.#winner[a] as number;
    const y = this.#winner[b] as number;
    const dx = this.#cost[x] as number;
    const dy = this.#cost[y] as number;
    return dx < dy || (dx === dy && x < y);
  }

  #push(heap: number[], node: number): void {
    let k = heap.length;
    heap.push(node);
    while (k > 0) {
      const up = (k - 1) >>> 1;
      if (!this.#before(node, heap[up] as number)) break;
      heap[k] = heap[up] as number;
      k = up;
    }
    heap[k] = node;
  }

  #pop(heap: number[]): number {
    const first = heap[0] as number;
    const last = heap.pop() as number; // callers ask only a heap that is not empty
    if (heap.length === 0) return first;
    let k = 0;
    for (;;) {
      let down = 2 * k + 1;
      if (down >= heap.length) break;
      if (down + 1 < heap.length && this.#before(heap[down + 1] as number, heap[down] as number)) down++;
      if (!this.#before(heap[down] as number, last)) break;
      heap[k] = heap[down] as number;
      k = down;
    }
    heap[k] = last;
    return first;
  }

  /** A wider table that has a leaf for `chunk`; all matches are played again. An empty index just moves. */
  #cover(chunk: number): void {
    const { players } = this;
    const oldBase = this.#base;
    const old = this.#winner;
    const costs = this.#cost;
    const oldSpan = this.#span;
    const low = players === 0 ? chunk : Math.min(chunk, oldBase);
    const high = players === 0 ? chunk + 1 : Math.max(chunk + 1, oldBase + oldSpan);
    let span = players === 0 ? oldSpan : 2 * oldSpan;
    while (span < high - low) span *= 2;
    // Grow to where the chunk is: below the old ones, the new leaves lie below as well.
    const base = players > 0 && chunk < oldBase ? Math.max(0, high - span) : low;
    this.#base = base;
    this.#span = span;
    this.#winner = new Int32Array(2 * span).fill(NOBODY);
    this.#cost = new Int32Array(span);
    for (let i = 0; i < oldSpan && players > 0; i++) {
      if (old[oldSpan + i] === NOBODY) continue;
      const leaf = oldBase + i - base;
      this.#winner[span + leaf] = leaf;
      this.#cost[leaf] = costs[i] as number;
    }
    for (let node = span - 1; node >= 1; node--) {
      const a = this.#winner[2 * node] as number;
      const b = this.#winner[2 * node + 1] as number;
      const lost = a === NOBODY || (b !== NOBODY && (this.#cost[b] as number) < (this.#cost[a] as number));
      this.#winner[node] = lost ? b : a;
    }
  }
}
