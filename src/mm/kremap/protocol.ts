// The protocol by which kernel pages move while their addresses stay. All of it, or nothing.
//
//   step        what                                                          a failure here                undo
//   reserve     frames to go to, frames for the tables that it will take      no-target                     given back
//   freeze      write-protected; pages that cannot fault: all CPUs stopped                                  thawed
//   copy        contents, at both places now                                                                forgotten
//   switch      K: the direct map's entry, and the image's                                                  as it was
//               V: the vmalloc leaf   T: the parent's entry   H: registered anew
//   shootdown   no CPU translates by the old entry any more
//   verify      both places say the same                                      raced: tried again, 3 times
//   release     where the source frames go: to isolation, or held
//   commit      ═══ point of no return ═══ the source is forgotten, the holder finds its page at the new place
//
// The source's frames and contents are untouched until commit. A reader sees the old frame until its CPU's translation is
// shot down and the new one afterwards, and both say the same: nobody can write between freeze and commit. That no
// interleaving breaks this is model-checked step by step (interleave.ts).
//
// Several allocations may move as one (whole-leaf.ts, and what has to come home together). Spec 9.C.

import { assert } from '#base/assert';
import type { Undo } from '../evictor.ts';
import { MIGRATE_ISOLATE, PAGE_SIZE, PAGES_PER_SECTION } from '../geometry.ts';
import type { HolderSpec } from '../holder.ts';
import { kernelClassOf } from '../kernel-class.ts';
import type { Machine } from '../machine.ts';
import { CLASS_TRAITS, type PageClass } from '../page-class.ts';
import type { Pool } from '../pool.ts';
import {
  KIND_HEAD0,
  KIND_MASK,
  KIND_TAIL,
  META_DISPLACED,
  META_PINNED,
  META_STATE,
  META_WRITEBACK,
} from '../section.ts';
import { type KremapState, MOVED_CLASSES, type MovedClass } from './kremap-state.ts';
import { giveBack } from './target.ts';

export const KREMAP_STEPS = [
  'reserve',
  'freeze',
  'copy',
  'switch',
  'shootdown',
  'verify',
  'release',
  'commit',
] as const;
export type KremapStep = (typeof KREMAP_STEPS)[number];

/** Names under which Machine.faultAt is asked. */
export const KREMAP_FAULTS: readonly string[] = KREMAP_STEPS.map((step) => `kremap.${step}`);

/** A page that changed while it was copied is tried again this often. */
const TRIES = 3;

/** Why it did not move; nothing has changed. */
export type MoveFailure = 'no-target' | 'pinned' | 'writeback' | 'raced' | 'fault';

/** One allocation on its way. */
export type Part = {
  readonly head: number;
  readonly order: number;
  readonly cls: PageClass;
  readonly kernel: MovedClass;
  /** Its first address; only class K has one that matters. */
  readonly va: number;
  /** It has a second alias: the kernel image. */
  readonly image: boolean;
  /** Where it goes; -1 before it is reserved. */
  to: number;
};

/** Takes frames for all parts and writes them into `to`. @returns how to give them back; undefined = there are none */
export type Place = (parts: readonly Part[]) => Undo | undefined;

export type MoveManner = {
  /** 'none': all CPUs are stopped throughout and nothing of the world is asked: the way back of an undo. */
  readonly faults: 'ask' | 'none';
  /** Frame minus address, when the whole leaf moves. */
  readonly whole?: number;
  /** The frames that are left are held even in an isolated pageblock: whoever isolated it does not know of this move. */
  readonly hold?: boolean;
};

/** The allocation at `head`, if remapping moves its class. Cost O(1). */
export function partAt(k: KremapState, head: number): Part | undefined {
  const { m } = k;
  const spec = m.holders.specs[m.holders.holderOf(m.sections.ownerAt(head))] as HolderSpec; // an allocation has one
  const kernel = kernelClassOf(spec);
  if (!MOVED_CLASSES.includes(kernel as MovedClass)) return undefined;
  const va = kernel === 'K' ? k.translation.physToVirt(m.sections.pfnOf(head)) : -1;
  return {
    head,
    order: (m.sections.metaAt(head) & KIND_MASK) - KIND_HEAD0,
    cls: spec.class,
    kernel: kernel as MovedClass,
    va,
    image: kernel === 'K' && spec.class === 'reserved',
    to: -1,
  };
}

/** Cannot take a fault: a stack in use, the text of interrupts. Moved while all CPUs stand still. */
export const cannotFault = (part: Part): boolean => part.cls === 'stack' || part.image;

/** Moves the parts, all or none. Cost O(pages). */
export function movePages(
  k: KremapState,
  parts: readonly Part[],
  place: Place,
  manner: MoveManner,
): 'moved' | MoveFailure {
  for (const { head } of parts) {
    const meta = k.m.sections.metaAt(head);
    if ((meta & META_PINNED) !== 0) return 'pinned';
    if ((meta & META_WRITEBACK) !== 0) return 'writeback';
  }
  for (let tries = 1; ; tries++) {
    const outcome = new Move(k, parts, place, manner).run();
    if (outcome !== 'raced' || tries === TRIES) return outcome;
  }
}

class Move {
  readonly #k: KremapState;
  readonly #m: Machine;
  readonly #parts: readonly Part[];
  readonly #place: Place;
  readonly #manner: MoveManner;
  readonly #ladder: Undo[] = [];

  constructor(k: KremapState, parts: readonly Part[], place: Place, manner: MoveManner) {
    this.#k = k;
    this.#m = k.m;
    this.#parts = parts;
    this.#place = place;
    this.#manner = manner;
  }

  run(): 'moved' | MoveFailure {
    for (const step of KREMAP_STEPS) {
      const failure = this[step]() ?? this.#fault(step);
      if (failure === undefined) continue;
      for (let undo = this.#ladder.pop(); undo !== undefined; undo = this.#ladder.pop()) undo();
      if (failure !== 'no-target') this.#k.counters.aborts++;
      return failure;
    }

    // ═══ Point of no return: nothing below can fail. ═══
    this.#ladder.length = 0;
    for (const part of this.#parts) this.#finish(part);
    this.#k.settle();
    return 'moved';
  }

  #fault(step: KremapStep): MoveFailure | undefined {
    if (this.#manner.faults === 'none' || this.#m.faultAt?.(`kremap.${step}`) !== true) return undefined;
    return step === 'reserve' ? 'no-target' : step === 'verify' ? 'raced' : 'fault';
  }

  reserve(): MoveFailure | undefined {
    const k = this.#k;
    const m = this.#m;
    const undo = this.#place(this.#parts);
    if (undo === undefined) return 'no-target';
    this.#ladder.push(undo);
    const sections = new Set<number>();
    let pageTables = 0;
    for (const part of this.#parts) {
      assert(part.to >= 0, 'no frames were reserved', { head: part.head });
      if (part.kernel !== 'K') continue;
      const pfn: number = m.sections.pfnOf(part.to);
      if (pfn === part.va) continue;
      // An allocation lies in one section, and so do its addresses.
      for (const page of [part.va, pfn]) {
        if (!k.translation.covers(page)) sections.add(Math.floor(page / PAGES_PER_SECTION));
      }
      pageTables += k.map.tablesFor(m, part.va, 1 << part.order, part.image, this.#manner.whole);
    }
    if (sections.size + pageTables === 0) return undefined;
    this.#ladder.push(() => k.settle());
    const [first] = this.#parts as readonly [Part]; // a move has parts
    return k.provide((m.poolAt(first.to) as Pool).node, sections.size, pageTables) ? undefined : 'no-target';
  }

  freeze(): undefined {
    const { counters } = this.#k;
    const pages = this.#parts.reduce((n, p) => n + (cannotFault(p) ? 1 << p.order : 0), 0);
    if (pages === 0 && this.#manner.faults === 'ask') return;
    counters.stopWindows++;
    counters.maxStopPages = Math.max(counters.maxStopPages, pages);
  }

  copy(): undefined {
    for (const { head, order, to } of this.#parts) {
      this.#ladder.push(() => this.#uncopy(to, order));
      this.#m.sections.copy(head, to, order);
      if (this.#m.spec.contents !== 'bytes') continue;
      for (let i = 0; i < 1 << order; i++) {
        const page = this.#read(head + i);
        if (!isZero(page)) this.#m.write(this.#m.sections.pfnOf(to + i), 0, page);
      }
    }
  }

  #uncopy(to: number, order: number): void {
    if (this.#m.spec.contents === 'bytes') {
      for (let i = to; i < to + (1 << order); i++) {
        if (!isZero(this.#read(i))) this.#m.write(this.#m.sections.pfnOf(i), 0, new Uint8Array(PAGE_SIZE));
      }
    }
    this.#m.sections.vacate(to, order);
  }

  #read(index: number): Uint8Array {
    return this.#m.read(this.#m.sections.pfnOf(index));
  }

  switch(): undefined {
    const k = this.#k;
    this.#ladder.push(() => this.shootdown()); // after the entries are back: who looked meanwhile has the new frame
    for (const part of this.#parts) {
      const { head, order, to, va, image } = part;
      if (part.kernel !== 'K') {
        const slot = this.#m.sections.ownerAt(head);
        this.#ladder.push(() => this.#m.holders.move(slot, head));
        this.#m.holders.move(slot, to);
        continue;
      }
      const before = k.map.wholeDistance(va);
      for (let i = 0; i < 1 << order; i++) {
        this.#ladder.push(() => k.remap(va + i, this.#m.sections.pfnOf(head + i), image, before));
        k.remap(va + i, this.#m.sections.pfnOf(to + i), image, this.#manner.whole);
      }
    }
  }

  shootdown(): undefined {
    const { counters } = this.#k;
    counters.shootdowns++;
    counters.ipis += (this.#m.spec.cpus ?? 1) - 1;
  }

  verify(): MoveFailure | undefined {
    const { sections } = this.#m;
    for (const { head, order, to } of this.#parts) {
      for (let i = 0; i < 1 << order; i++) {
        const state = i === 0 ? META_STATE : 0; // a pin since then is no difference in contents
        if ((sections.metaAt(head + i) & ~state) !== (sections.metaAt(to + i) & ~state)) return 'raced';
        if (this.#m.spec.contents !== 'bytes') continue;
        if (!isSame(this.#read(head + i), this.#read(to + i))) return 'raced';
      }
      if ((sections.metaAt(head) & META_PINNED) !== 0) return 'pinned';
    }
    return undefined;
  }

  /** The source goes to its isolated pageblock, or is held; done at once with the rest, when nothing can fail any more. */
  release(): undefined {}

  commit(): undefined {}

  #finish({ head, order, cls, kernel, va, to }: Part): void {
    const k = this.#k;
    const m = this.#m;
    const { sections } = m;
    const pages = 1 << order;
    const source = m.poolAt(head) as Pool; // an allocation that moves is online
    const target = m.poolAt(to) as Pool;
    const displaced = kernel === 'K' && (sections.pfnOf(to) as number) !== va;
    // The addresses are where they belong already: relocate need not tell of a displaced page.
    sections.setMeta(head, sections.metaAt(head) & ~META_DISPLACED);
    m.relocate(head, to, order);
    if (displaced) sections.setMeta(to, sections.metaAt(to) | META_DISPLACED);
    if (!CLASS_TRAITS[cls].managed) {
      source.managed += pages;
      target.managed -= pages;
    }
    const keeps = this.#manner.hold === true || !isIsolated(source, head);
    if (kernel === 'K' && k.translation.isDisplaced(sections.pfnOf(head)) && keeps) {
      for (let i = head; i < head + pages; i++) k.hold(i);
    } else {
      giveBack(m, head, order);
    }
    this.#count(kernel, pages, to);
    if (kernel === 'K' && !displaced) k.counters.home += pages;
  }

  #count(kernel: MovedClass, pages: number, to: number): void {
    const { counters } = this.#k;
    counters.pages[kernel] += pages;
    if (kernel === 'K') return;
    counters.entries[kernel]++;
    // The first page of an address space's tables is their root: there is no parent, but the register of every CPU.
    const slot = this.#m.sections.ownerAt(to);
    const own = this.#m.holders.holderOf(slot) === this.#k.pageTableHolder;
    if (kernel === 'T' && !own && this.#m.holders.indexOf(slot) === 0) counters.rootLoads += this.#m.spec.cpus ?? 1;
  }
}

/** Whole frames, by words. */
const words = (page: Uint8Array): Int32Array => new Int32Array(page.buffer, page.byteOffset, page.length >>> 2);

function isZero(page: Uint8Array): boolean {
  const x = words(page);
  for (let i = 0; i < x.length; i++) if (x[i] !== 0) return false;
  return true;
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  const x = words(a);
  const y = words(b);
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
  return true;
}

/** Is nothing allocated from its pageblock? */
export const isIsolated = (pool: Pool, index: number): boolean =>
  pool.alloc.area.typeOf(index - pool.base) === MIGRATE_ISOLATE;

/** Is there an allocation whose head this is? */
export const isHead = (m: Machine, index: number): boolean => {
  const kind = m.sections.metaAt(index) & KIND_MASK;
  return kind >= KIND_HEAD0 && kind < KIND_TAIL;
};
