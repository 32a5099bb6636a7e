// Placing frames: walks the page flags of the RAM ranges and gives each used frame a holder in the machine.
//
//   flags runs   |free........|LRU....|slab head|tails|free..|nothing.....|reserved|
//                      │          │         └──┬──┘              │            │
//   machine        free spans   order-0     one allocation    unflagged   large pieces
//                  (later:      allocations of the           spans        of `reserved`
//                  chunks)                  compound's order (later)
//
// What cannot be decided frame by frame is left as spans for build.ts: the free ones need their pageblock types first,
// the unflagged ones a look at the whole zone. Also gathers the evidence per memory block (twin.ts).
//
// Invariants: every frame of an online range ends up in exactly one of: allocation, free span, unflagged span.
// Cost: O(runs + used frames).

import { forEachRun, type PageRuns, wordAt } from '#capture/page-runs';
import { type HolderId, type Machine, PAGEBLOCK_PAGES, type PageClass, type RamRange, toPfn } from '#mm/index';
import { classify, type FrameKind, isCompoundHead, isCompoundTail, isDroppable, pinSign } from './classify.ts';
import type { FrameRange } from './layout.ts';

/** Evidence while it is gathered; see BlockEvidence. */
export type BlockTally = {
  unflagged: number;
  unflaggedWhole: number;
  deferred: number;
  userPins: number;
  devicePins: number;
  droppable: number;
  giganticTail: boolean;
  pinRuns: PinRun[];
};

/** Frames that carry one sign of an extra reference. */
export type PinRun = {
  readonly startPfn: number;
  readonly endPfn: number;
  readonly sign: 'block-device' | 'user-pin';
};

export const emptyTally = (): BlockTally => ({
  unflagged: 0,
  unflaggedWhole: 0,
  deferred: 0,
  userPins: 0,
  devicePins: 0,
  droppable: 0,
  giganticTail: false,
  pinRuns: [],
});

export type PlacedFrames = {
  /** Ascending, within one RAM range each. */
  readonly free: FrameRange[];
  readonly unflagged: FrameRange[];
  /** Pageblocks (by pfn >> 9) that hold kernel pages. */
  readonly kernelPageblocks: ReadonlySet<number>;
  readonly tallies: ReadonlyMap<number, BlockTally>;
};

export type PlaceInput = {
  readonly flags: PageRuns;
  readonly cgroupOf?: PageRuns;
  readonly cgroups: ReadonlyMap<number, string>;
  /** Frames that virtio-mem brought: PageOffline there means "not plugged". */
  readonly virtioMem: readonly FrameRange[];
};

/** A held run this long is a sign; exec leaves single marked pages behind, and a reader of /proc some fifty. */
const USER_PIN_RUN = 4;
export const USER_PIN_FRAMES = 128;

const GIGANTIC_PAGES = 2 ** 18; // 1 GiB

type HolderKind = { readonly class: PageClass; readonly name: string };

export const HOLDER_CLEAN = 'page cache, clean and unmapped';
export const HOLDER_BUSY_CACHE = 'page cache, dirty or mapped';

const HOLDERS: Readonly<Record<Exclude<FrameKind, 'free' | 'unflagged'>, HolderKind>> = {
  hole: { class: 'reserved', name: 'frames the kernel has no page for' },
  anonymous: { class: 'anonymous', name: 'anonymous memory' },
  file: { class: 'file', name: HOLDER_BUSY_CACHE },
  shmem: { class: 'shmem', name: 'shared memory and tmpfs' },
  hugetlb: { class: 'hugetlb', name: 'huge pages of 2 MiB' },
  balloon: { class: 'balloon', name: 'balloon' },
  slab: { class: 'slab', name: 'slab' },
  pagetable: { class: 'pagetable', name: 'page tables' },
  driver: { class: 'driver', name: 'compound kernel pages (drivers, network buffers, stacks)' },
  reserved: { class: 'reserved', name: 'reserved at boot (kernel image, memory map, firmware)' },
  selfmemmap: { class: 'memmap', name: 'memory map of its own block' },
  poisoned: { class: 'poisoned', name: 'poisoned (hardware error or soft offline)' },
  transient: { class: 'anonymous', name: 'pages in transit between lists' },
};
const CLEAN_CACHE: HolderKind = { class: 'file', name: HOLDER_CLEAN };
const DEVICE_CACHE: HolderKind = { class: 'file', name: 'page cache of a block device (file system metadata)' };
const GIGANTIC: HolderKind = { class: 'gigantic', name: 'huge pages of 1 GiB' };
const UNPLUGGED: HolderKind = { class: 'unplugged', name: 'never plugged by virtio-mem' };

/** Kinds whose frames belong to a process or a file, so that a cgroup may own them. */
const OWNED: ReadonlySet<FrameKind> = new Set(['anonymous', 'file', 'shmem', 'pagetable', 'slab']);
const KERNEL_KINDS: ReadonlySet<FrameKind> = new Set(['slab', 'pagetable', 'driver', 'reserved', 'selfmemmap']);

export class FramePlacer {
  readonly #m: Machine;
  readonly #input: PlaceInput;
  readonly #holders = new Map<string, HolderId>();
  readonly #free: { startPfn: number; endPfn: number }[] = [];
  readonly #unflagged: { startPfn: number; endPfn: number }[] = [];
  readonly #kernelPageblocks = new Set<number>();
  readonly #tallies = new Map<number, BlockTally>();
  /** The compound page whose tails are still coming. */
  #open: { start: number; end: number; kind: FrameKind; word: number } | undefined;
  #pinRun = { start: 0, end: 0 };

  constructor(m: Machine, input: PlaceInput) {
    this.#m = m;
    this.#input = input;
  }

  /** Walks all online ranges. */
  place(ranges: readonly RamRange[]): PlacedFrames {
    const { flags } = this.#input;
    for (const r of ranges) {
      if (r.offline === true) continue;
      forEachRun(flags, r.start, r.end, (start, end, word) => this.#run(start, end, word));
      this.#closeCompound();
      this.#closePinRun();
      // Frames past the end of the file (a truncated capture) are unflagged: nothing is known of them.
      if (r.end > flags.endPfn) this.#unflaggedRun(Math.max(r.start, flags.endPfn), r.end);
    }
    return {
      free: this.#free,
      unflagged: this.#unflagged,
      kernelPageblocks: this.#kernelPageblocks,
      tallies: this.#tallies,
    };
  }

  tallyOf(pfn: number): BlockTally {
    const id = Math.floor(pfn / this.#m.blockPages);
    let t = this.#tallies.get(id);
    if (t === undefined) this.#tallies.set(id, (t = emptyTally()));
    return t;
  }

  holder(kind: HolderKind, cgroup?: string): HolderId {
    const name = cgroup === undefined ? kind.name : `${kind.name}, cgroup ${cgroup}`;
    let id = this.#holders.get(name);
    if (id === undefined) this.#holders.set(name, (id = this.#m.addHolder({ class: kind.class, name })));
    return id;
  }

  #run(start: number, end: number, word: number): void {
    const { flags } = this.#input;
    const lo = flags.lo[word] as number;
    const hi = flags.hi[word] as number;
    const kind = classify(lo, hi);

    const sign = pinSign(lo, hi);
    if (sign === 'user-pin') {
      if (this.#pinRun.end === start) this.#pinRun.end = end;
      else {
        this.#closePinRun();
        this.#pinRun = { start, end };
      }
    } else if (sign === 'block-device') {
      this.#eachBlock(start, end, (t, n, at) => {
        t.devicePins += n;
        t.pinRuns.push({ startPfn: at, endPfn: at + n, sign });
      });
    }

    // A tail belongs to the compound before it, whatever else it shows: a torn read must not tear the page.
    const open = this.#open;
    if (isCompoundTail(lo) && kind !== 'free' && open !== undefined && open.end === start) {
      open.end = end;
      return;
    }
    this.#closeCompound();
    if (kind === 'free') return pushSpan(this.#free, start, end);
    if (kind === 'unflagged') return this.#unflaggedRun(start, end);
    if (isCompoundHead(lo) && kind !== 'reserved') {
      // All but the last head of a run have no tails.
      if (end - start > 1) this.#frames(start, end - 1, kind, lo, hi);
      this.#open = { start: end - 1, end, kind, word };
      return;
    }
    this.#frames(start, end, kind, lo, hi);
  }

  #closeCompound(): void {
    const open = this.#open;
    if (open === undefined) return;
    this.#open = undefined;
    const pages = open.end - open.start;
    if (open.kind === 'hugetlb' && pages >= GIGANTIC_PAGES) {
      this.#put(GIGANTIC, open.start, open.end, 9);
      this.tallyOf(open.end - 1).giganticTail = true;
      return;
    }
    const { flags } = this.#input;
    const hold = this.#holderKind(open.kind, flags.lo[open.word] as number, flags.hi[open.word] as number, open.start);
    this.#put(hold, open.start, open.end, 9, this.#cgroupAt(open.kind, open.start));
    this.#noteKernel(open.kind, open.start, open.end);
  }

  #closePinRun(): void {
    const { start, end } = this.#pinRun;
    this.#pinRun = { start: 0, end: 0 };
    if (end - start < USER_PIN_RUN) return;
    this.#eachBlock(start, end, (t, n, at) => {
      t.userPins += n;
      t.pinRuns.push({ startPfn: at, endPfn: at + n, sign: 'user-pin' });
    });
  }

  /** Frames that are allocations of their own, or, for kinds that nobody moves, one large run. */
  #frames(start: number, end: number, kind: FrameKind, lo: number, hi: number): void {
    const hold = this.#holderKind(kind, lo, hi, start);
    const whole = kind === 'reserved' || kind === 'balloon' || kind === 'selfmemmap' || kind === 'hole';
    this.#noteKernel(kind, start, end);
    if (isDroppable(lo)) {
      this.#eachBlock(start, end, (t, n) => {
        t.droppable += n;
      });
    }
    const { cgroupOf } = this.#input;
    if (cgroupOf === undefined || !OWNED.has(kind)) return this.#put(hold, start, end, whole ? 9 : 0);
    forEachRun(cgroupOf, start, end, (s, e, word) => {
      this.#put(hold, s, e, 0, this.#cgroupName(cgroupOf, word));
    });
    if (end > cgroupOf.endPfn) this.#put(hold, Math.max(start, cgroupOf.endPfn), end, 0);
  }

  #holderKind(kind: FrameKind, lo: number, hi: number, pfn: number): HolderKind {
    if (kind === 'file') {
      if (pinSign(lo, hi) === 'block-device') return DEVICE_CACHE;
      return isDroppable(lo) ? CLEAN_CACHE : HOLDERS.file;
    }
    if (kind === 'balloon' && this.#input.virtioMem.some((r) => r.startPfn <= pfn && pfn < r.endPfn)) return UNPLUGGED;
    return HOLDERS[kind as keyof typeof HOLDERS];
  }

  #cgroupAt(kind: FrameKind, pfn: number): string | undefined {
    const { cgroupOf } = this.#input;
    if (cgroupOf === undefined || !OWNED.has(kind)) return undefined;
    const word = wordAt(cgroupOf, pfn);
    return word < 0 ? undefined : this.#cgroupName(cgroupOf, word);
  }

  #cgroupName(runs: PageRuns, word: number): string | undefined {
    const inode = (runs.hi[word] as number) * 2 ** 32 + (runs.lo[word] as number);
    if (inode === 0) return undefined;
    return this.#input.cgroups.get(inode) ?? `with inode ${inode}`;
  }

  #put(hold: HolderKind, start: number, end: number, maxOrder: number, cgroup?: string): void {
    this.#m.place(this.holder(hold, cgroup), toPfn(start), toPfn(end), maxOrder);
  }

  #noteKernel(kind: FrameKind, start: number, end: number): void {
    if (!KERNEL_KINDS.has(kind)) return;
    for (let pb = Math.floor(start / PAGEBLOCK_PAGES); pb * PAGEBLOCK_PAGES < end; pb++) this.#kernelPageblocks.add(pb);
  }

  #unflaggedRun(start: number, end: number): void {
    pushSpan(this.#unflagged, start, end);
    this.#eachBlock(start, end, (t, n) => {
      t.unflagged += n;
    });
  }

  #eachBlock(start: number, end: number, each: (t: BlockTally, pages: number, pfn: number) => void): void {
    for (let pfn = start; pfn < end; ) {
      const stop = Math.min(end, (Math.floor(pfn / this.#m.blockPages) + 1) * this.#m.blockPages);
      each(this.tallyOf(pfn), stop - pfn, pfn);
      pfn = stop;
    }
  }
}

function pushSpan(spans: { startPfn: number; endPfn: number }[], start: number, end: number): void {
  const last = spans[spans.length - 1];
  if (last !== undefined && last.endPfn === start) last.endPfn = end;
  else spans.push({ startPfn: start, endPfn: end });
}
