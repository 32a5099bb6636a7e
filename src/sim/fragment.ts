// The fragmenting run: a machine of DIMMs is filled, churned, and emptied again until 90 % of it is free, and still
// something is left in every DIMM.
//
//   "I have stopped all nonessential services, and free RAM is at 90 %, still I cannot remove that piece of faulty RAM"
//                                                                              (Hansen 2005, quoting Ingo Molnar)
//
//   grow     DIMM 0 boots; services start, jobs compile, files are read; when 85 % is in use, the next DIMM is plugged
//   churn    the machine is full: page cache takes what is free. Services restart, jobs come and go, devices are opened:
//            kernel memory that stays finds no pageblock of its own kind and claims what a service or the cache left
//   stop     all nonessential services, all jobs, then page cache, oldest first, until 90 % is free
//
//   who               what they have                                                            at the end
//   services          huge pages (order 9), a page table for each (Linux keeps one ready to      stopped, but the essential
//                     split it), kernel memory that outlives them: 1 to 2 frames of 512
//   compile jobs      compile-job.ts                                                            stopped
//   files             folios of order 0 to 4, and 9                                             dropped as far as needed
//   devices           buffers of order 0 to 5 at fixed places                                   open, DMA runs
//
// Deterministic: same seed and spec, same machine. Everything is asked of the machine's allocator: which frames it gives
// is the engine's doing, never chosen here. Source: spec 8.2 (workload model), 9.C (T-INGO), H1 (copies of a tree, jobs).

import { assert } from '#base/assert';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toOrder } from '#base/units';
import { addDevice } from '#mm/fixed-areas/device-model';
import { type AllocOptions, type Machine, PAGE_SIZE } from '#mm/index';
import { type Cache, endJob, freeAll, type Job, type Land, startJob, USES, type Use } from './compile-job.ts';
import { type BoxSpec, bootBox, type DimmBox, freePages, managedPages, plug } from './dimm-box.ts';

export type FragmentSpec = BoxSpec & {
  /** Rounds of churn when the machine is full. Default 48. */
  readonly rounds?: number;
  /** What is free at the end, of what is managed. Default 0.9. */
  readonly free?: number;
  /**
   * False: kernel memory is not kept apart from what moves, as before grouping by mobility (2.6.24): the machine of the
   * quotation, which is from 2005. Default true.
   */
  readonly grouping?: boolean;
};

/** T-INGO: 64 GiB in 8 DIMMs (spec 9.C). */
export const INGO_BOX: FragmentSpec = { bytes: 64 * 2 ** 30, dimms: 8 };

export type Fragmented = DimmBox & {
  readonly seed: number;
  /** Free frames and managed frames at the end. */
  readonly free: number;
  readonly managed: number;
  /** What was done, for the report. */
  readonly done: { readonly jobs: number; readonly starts: number; readonly reclaimed: number };
};

type Service = { readonly holder: HolderId; readonly tables: HolderId; readonly essential: boolean };

/** Whose buffers lie at fixed places. */
const DEVICES = ['nic0', 'nic1', 'raid0', 'fc0', 'gpu0', 'usb0'] as const;
const HUGE = 9;
const HUGE_PAGES = 1 << HUGE;
/** The next DIMM is plugged when this much is in use. */
const FULL_ENOUGH = 0.85;
/** Of all memory: services that are never stopped, and the most that all services have. */
const ESSENTIAL_SHARE = 0.03;
const SERVICES_SHARE = 0.6;

/** Builds the machine. Cost: some 10^6 allocations, a few seconds at 64 GiB. */
export function fragment(seed: number, spec: FragmentSpec = INGO_BOX): Fragmented {
  const run = new Run(seed, spec);
  run.grow();
  for (let round = 0; round < (spec.rounds ?? 48); round++) run.churn();
  run.stop(spec.free ?? 0.9);
  run.register();
  const { m, dimms } = run.box;
  const free = freePages(m);
  const managed = managedPages(m);
  const { jobs, starts, reclaimed } = run;
  return { m, dimms, seed, free, managed, done: { jobs, starts, reclaimed } };
}

/** The running machine and what runs on it. */
class Run {
  readonly spec: FragmentSpec;
  readonly prng: Prng;
  box: DimmBox;
  readonly m: Machine;
  readonly land: Land;
  readonly #cache: Cache = { pages: [], next: 0 };
  readonly #slab: Cache = { pages: [], next: 0 };
  readonly #services: Service[] = [];
  readonly #running: Job[] = [];
  readonly #buffers: readonly HolderId[];
  readonly #options: AllocOptions | undefined;
  jobs = 0;
  starts = 0;
  reclaimed = 0;

  constructor(seed: number, spec: FragmentSpec) {
    this.spec = spec;
    this.prng = new Prng(seed);
    this.#options = spec.grouping === false ? { movable: true } : undefined;
    this.box = bootBox(spec);
    const { m } = this.box;
    this.m = m;
    const uses = new Map<Use, HolderId>();
    for (const [name, cls] of Object.entries(USES)) uses.set(name as Use, m.addHolder({ class: cls, name }));
    this.#buffers = DEVICES.map((name) => m.addHolder({ class: 'driver', name }));
    this.land = {
      m,
      prng: this.prng,
      uses,
      cache: this.#cache,
      slab: this.#slab,
      take: (holder, order) => this.#take(holder, order),
    };
  }

  // ------------------------------------------------------------------------------------------------------- memory

  /** A request that may reclaim, as the slow path of the kernel does. */
  #take(holder: HolderId, order: number): Pfn | -1 {
    for (let tries = 0; ; tries++) {
      const pfn = this.m.alloc(holder, toOrder(order), this.#options);
      if (pfn >= 0 || tries === 8) return pfn;
      if (this.#reclaim(Math.max(64, 2 << order)) === 0) return -1;
    }
  }

  /** Frees the oldest pages of the caches: about `pages` of them. @returns how many */
  #reclaim(pages: number): number {
    let freed = 0;
    const drop = (cache: Cache): boolean => {
      const pfn = cache.pages[cache.next];
      if (pfn === undefined) return false;
      cache.next++;
      freed += 2 ** (this.m.sections.allocationAt(this.m.sections.indexOf(pfn))?.order ?? 0);
      this.m.free(pfn);
      return true;
    };
    while (freed < pages) {
      // One page in sixteen was used again and goes to the young end of the list.
      const old = this.#cache.pages[this.#cache.next];
      if (old !== undefined && this.prng.chance(1 / 16)) {
        this.#cache.next++;
        this.#cache.pages.push(old);
      }
      const file = drop(this.#cache);
      const slab = this.prng.chance(0.1) && drop(this.#slab);
      if (!file && !slab && !drop(this.#slab)) break;
    }
    this.reclaimed += freed;
    return freed;
  }

  get #gib(): number {
    return (this.m.zones.reduce((n, p) => n + p.present, 0) * PAGE_SIZE) / 2 ** 30;
  }

  /** The part of managed memory that is not free. */
  get #inUse(): number {
    return 1 - freePages(this.m) / managedPages(this.m);
  }

  // --------------------------------------------------------------------------------------------------------- users

  #startService(units: number, essential: boolean): void {
    const { m } = this;
    this.starts++;
    const name = `${essential ? 'essential ' : ''}service ${this.starts}`;
    const service: Service = {
      holder: m.addHolder({ class: 'anonymous', name }),
      tables: m.addHolder({ class: 'pagetable', name }),
      essential,
    };
    this.#services.push(service);
    this.#growService(service, units);
  }

  #growService(service: Service, units: number): void {
    const { land } = this;
    const kmalloc = land.uses.get('kmalloc, long-lived') as HolderId; // all of USES are there
    const vmalloc = land.uses.get('modules and vmalloc') as HolderId;
    for (let k = 0; k < units; k++) {
      if (land.take(service.holder, HUGE) < 0) return;
      land.take(service.tables, 0);
      // Sockets, files, modules that outlive it.
      land.take(kmalloc, this.prng.below(2));
      if (k % 8 === 0) land.take(vmalloc, 0);
    }
  }

  #stopService(service: Service): void {
    freeAll(this.m, service.holder);
    freeAll(this.m, service.tables);
    this.#services.splice(this.#services.indexOf(service), 1);
  }

  #startJob(): void {
    this.jobs++;
    this.#running.push(startJob(this.land, `compile job ${this.jobs}`, Math.min(1, this.#gib / 8)));
    if (this.#running.length > Math.max(2, this.#gib / 4)) endJob(this.m, this.#running.shift() as Job);
  }

  /** Reads files until so many frames have come. */
  #readFiles(pages: number): void {
    const { land, prng } = this;
    const holder = land.uses.get('page cache') as HolderId; // all of USES are there
    for (let read = 0; read < pages; ) {
      const order = prng.pick([0, 2, 4, 4, 4, HUGE]);
      const folio = land.take(holder, order);
      if (folio < 0) return;
      land.cache.pages.push(folio as Pfn);
      read += 1 << order;
    }
  }

  /** A device is opened: rings, descriptors, firmware buffers. */
  #openDevice(): void {
    const holder = this.prng.pick(this.#buffers);
    const count = 4 + this.prng.below(12);
    for (let k = 0; k < count; k++) this.land.take(holder, this.prng.below(6));
  }

  /** Huge pages that a service asks for: what remains of all services' share, one 64th to one 16th of memory at most. */
  #unitsOfAService(): number {
    const gib = this.#gib;
    const asked = Math.max(4, Math.floor(gib * 8 + this.prng.below(Math.ceil(gib * 24))));
    const had = this.#services.reduce((n, s) => n + (this.m.holders.members[s.holder] as number), 0);
    return Math.max(0, Math.min(asked, Math.floor((gib * 2 ** 30 * SERVICES_SHARE) / PAGE_SIZE / HUGE_PAGES) - had));
  }

  // -------------------------------------------------------------------------------------------------------- phases

  grow(): void {
    const units = Math.floor((this.spec.bytes / PAGE_SIZE / HUGE_PAGES) * (ESSENTIAL_SHARE / 4));
    for (;;) {
      // Essential services are there from the first: one with each of four DIMMs.
      if (this.box.dimms.length <= 4) this.#startService(units, true);
      while (this.#inUse < FULL_ENOUGH) {
        this.#startService(this.#unitsOfAService(), false);
        this.#startJob();
        this.#readFiles(Math.floor(this.#gib * 4096));
        if (this.prng.chance(0.5)) this.#openDevice();
      }
      if (this.box.dimms.length === this.spec.dimms) return;
      this.box = plug(this.box, this.spec);
    }
  }

  churn(): void {
    const { prng } = this;
    const restartable = this.#services.filter((s) => !s.essential);
    for (let k = 0; k < 2 && restartable.length > 0; k++) {
      const service = restartable.splice(prng.below(restartable.length), 1)[0];
      this.#stopService(service);
      // Others are faster than its restart: its memory is taken up by whoever comes.
      this.#startJob();
      if (prng.chance(0.5)) this.#openDevice();
      this.#readFiles(Math.floor(this.#gib * 1024));
      this.#startService(this.#unitsOfAService(), false);
    }
    // The machine is nearly full: what is free above the watermarks becomes page cache.
    const spare = freePages(this.m) - this.m.zones.reduce((n, p) => n + p.watermarks.high, 0);
    if (spare > 0) this.#readFiles(spare);
  }

  /** The drivers make themselves known, with the buffers that they have: from now on they can be asked (spec 9.E). */
  register(): void {
    for (const [k, name] of DEVICES.entries()) addDevice(this.m, { name, drainMs: 1 + k }, this.#buffers[k]);
  }

  stop(free: number): void {
    const enough = (): boolean => freePages(this.m) >= managedPages(this.m) * free;
    for (const s of this.#services.filter((x) => !x.essential)) this.#stopService(s);
    for (const job of this.#running.splice(0)) endJob(this.m, job);
    while (!enough() && this.#reclaim(1024) > 0);
    for (const p of this.m.zones) p.alloc.drain(); // nothing runs: what CPUs had at hand is free
    assert(enough(), 'so much can be made free', { free: freePages(this.m), managed: managedPages(this.m) });
  }
}
