// Huge pages on the command line: three words whose meaning depends on their order.
//
//   hugepages=N                     before any size: N of the default size, whatever that will be
//   hugepagesz=S hugepages=N        N of size S
//   default_hugepagesz=S            S is the default; takes over the N that came before
//   hugepages=NODE:N,NODE:N         so many on each of these nodes
//
// A size that does not exist takes the count behind it along; of two counts for one size the first stands.
// Follows Linux v6.12 mm/hugetlb.c: hugepages_setup(), hugepagesz_setup(), default_hugepagesz_setup(), hugetlb_init().

import { memparse } from './memparse.ts';

/** A pool of huge pages to be filled at boot. */
export type HugepageRequest = {
  /** 2 MiB or 1 GiB, in bytes. */
  readonly size: number;
  /** Huge pages in all. */
  readonly count: number;
  /** By node id; empty: spread over the nodes in turn. */
  readonly perNode: ReadonlyMap<number, number>;
};

const MIB = 2 ** 20;
export const BYTES_2M = 2 * MIB;
export const BYTES_1G = 1024 * MIB;
/** arch/x86/mm/hugetlbpage.c: arch_hugetlb_valid_size(), of a CPU with 1 GiB pages. */
const HUGE_SIZES: readonly number[] = [BYTES_2M, BYTES_1G];
/** include/linux/numa.h with CONFIG_NODES_SHIFT=10. */
const MAX_NUMNODES = 1024;
/** Why a word had no effect; undefined when it was obeyed. */
type Verdict = string | undefined;
/** A count that found out too late that it is not wanted. */
type LostCount = { readonly word: string; readonly why: string };

type Hstate = { readonly size: number; count: number; perNode: Map<number, number> };

/** Fed word by word, in order; each returns why it had no effect, or undefined. `finish` gives what was asked for. */
export class HugepageParser {
  readonly #nodes: readonly number[] | undefined;
  readonly #states: Hstate[] = [];
  /** hugepages= before any size. */
  #early: Hstate = { size: 0, count: 0, perNode: new Map() };
  #current: Hstate | undefined;
  #default: Hstate | undefined;
  /** False after a size that does not exist: the next count has nothing to count. */
  #sizeValid = true;
  /** The pool that the last count went to: two counts in a row for one pool are a mistake. */
  #lastCounted: Hstate | undefined;

  constructor(nodes: readonly number[] | undefined) {
    this.#nodes = nodes;
  }

  hugepages(value: string | undefined): Verdict {
    if (value === undefined) return 'it needs a value: EINVAL';
    if (!this.#sizeValid) {
      this.#sizeValid = true;
      return 'it does not follow a valid hugepagesz';
    }
    const pool = this.#states.length === 0 ? this.#early : (this.#current as Hstate); // set with the first state
    if (pool === this.#lastCounted) return 'given twice without hugepagesz in between';
    const request = this.#counts(value);
    if (request === undefined) {
      pool.count = 0;
      pool.perNode = new Map();
      return 'not a count, nor NODE:COUNT for nodes that are online';
    }
    pool.count = request.count;
    pool.perNode = request.perNode;
    this.#lastCounted = pool;
    return undefined;
  }

  #counts(value: string): { count: number; perNode: Map<number, number> } | undefined {
    const plain = /^\d+(?![\d:])/.exec(value);
    if (plain !== null) return { count: Number(plain[0]), perNode: new Map() }; // what follows is not looked at
    const perNode = new Map<number, number>();
    let count = 0;
    for (let rest = value; ; ) {
      const m = /^(\d+):(\d+)/.exec(rest);
      if (m === null) return undefined;
      const node = Number(m[1]);
      if (node >= MAX_NUMNODES || this.#nodes?.includes(node) === false) return undefined;
      perNode.set(node, Number(m[2]));
      count += Number(m[2]);
      rest = rest.slice(m[0].length);
      if (!rest.startsWith(',') || rest.length === 1) return { count, perNode };
      rest = rest.slice(1);
    }
  }

  hugepagesz(value: string | undefined): Verdict {
    this.#sizeValid = false;
    const size = hugeSize(value);
    if (size === undefined) return 'not a huge page size of x86-64: 2M or 1G';
    const known = this.#states.find((s) => s.size === size);
    if (known !== undefined) {
      // Allowed once more for the default size, whose count has not been given yet.
      if (known !== this.#default || known.count > 0) return 'this size was given before';
      this.#current = known;
    } else this.#current = this.#add(size);
    this.#sizeValid = true;
    return undefined;
  }

  defaultHugepagesz(value: string | undefined): Verdict {
    this.#sizeValid = false;
    if (this.#default !== undefined) return 'given before: the first one stands';
    const size = hugeSize(value);
    if (size === undefined) return 'not a huge page size of x86-64: 2M or 1G';
    const pool = this.#states.find((s) => s.size === size);
    // Linux: hugetlb_add_hstate() of a size that exists changes nothing, not even which pool a count goes to.
    this.#default = pool ?? this.#add(size);
    if (pool === undefined) this.#current = this.#default;
    this.#sizeValid = true;
    if (this.#early.count > 0) {
      this.#default.count = this.#early.count;
      this.#default.perNode = this.#early.perNode;
      this.#early = { size: 0, count: 0, perNode: new Map() };
    }
    return undefined;
  }

  #add(size: number): Hstate {
    const state: Hstate = { size, count: 0, perNode: new Map() };
    this.#states.push(state);
    return state;
  }

  finish(): { requests: HugepageRequest[]; defaultSize: number; lost: LostCount | undefined } {
    let lost: LostCount | undefined;
    const fallback =
      this.#default ??
      this.#states.find((s) => s.size === BYTES_2M) ??
      (this.#early.count > 0 ? this.#add(BYTES_2M) : undefined);
    if (this.#early.count > 0 && fallback !== undefined) {
      if (fallback.count > 0) {
        const why = `the default size has a count of its own, ${fallback.count}`;
        lost = { word: `hugepages=${this.#early.count}`, why };
      } else {
        fallback.count = this.#early.count;
        fallback.perNode = this.#early.perNode;
      }
    }
    return { requests: this.#states, defaultSize: this.#default?.size ?? BYTES_2M, lost };
  }
}

function hugeSize(value: string | undefined): number | undefined {
  const size = value === undefined ? 0 : Number(memparse(value));
  return HUGE_SIZES.includes(size) ? size : undefined;
}
