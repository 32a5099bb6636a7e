// Boot parameters: what a kernel command line asks of memory management, as typed values; nothing is left unsaid.
//
//   line ──words──> a row of PARAMS ──> BootParams (every default is written out)
//                     │ no row, or the value makes no sense to Linux
//                     └──> remarks: the word, and why it has no effect
//
//   parameter                                       value                     Linux v6.12
//   mem                                             size                      arch/x86/kernel/e820.c: parse_memopt()
//   kernelcore, movablecore                         size, N%, mirror          mm/mm_init.c: cmdline_parse_core()
//   movable_node                                    none                      mm/memory_hotplug.c
//   memhp_default_state                             offline, online, ...      setup_memhp_default_state()
//   memory_hotplug.memmap_on_memory                 bool, force               set_memmap_mode()
//   memory_hotplug.online_policy                    contig-zones, ...         set_online_policy()
//   memory_hotplug.auto_movable_ratio               unsigned                  module_param(uint)
//   memory_hotplug.auto_movable_numa_aware          bool                      module_param(bool)
//   hugepages, hugepagesz, default_hugepagesz       count, size, size         mm/hugetlb.c: hugepages_setup()
//   sysctl.vm.percpu_pagelist_high_fraction         0, or 8 and more          mm/page_alloc.c
//   page_reporting.page_reporting_order             order                     mm/page_reporting.c
//
// Words that Linux does not have under this name, because people asked for them (Ishimatsu's talk 2013):
//   movablecore=acpi                      movable_node: what the firmware's SRAT calls hot-pluggable becomes Movable
//   vm.hotadd_memory_treat_as_movable     `online` puts hot-added memory into Movable
//   percpu_pagelist_high_fraction, page_reporting     without the prefix that sysctl and module parameters have
//
// Rules: words are read in order and most take the last value; a wrong value keeps what was there; a word that nobody
// knows is listed and never fatal. Words after "--" are init's.

import { argOf, sameName, splitArgs } from '#base/next-arg';
import { MAX_ORDER, PAGE_SHIFT, PAGEBLOCK_ORDER } from './geometry.ts';
import { type HotplugSettings, ONLINE_POLICIES, type OnlinePolicy } from './hotplug.ts';
import { BYTES_2M, HugepageParser, type HugepageRequest } from './hugepage-params.ts';
import { AUTO_ONLINE, type AutoOnline, KERNEL_PROFILES, type KernelName } from './kernel-profile.ts';
import type { MachineSpec } from './machine-spec.ts';
import { memparse, simpleStrtoull } from './memparse.ts';

/** kernelcore= or movablecore=: frames, unless percent is not 0. Both 0: not asked for. */
export type CoreRequest = { readonly pages: number; readonly percent: number };

/**
 * `ignored`  Linux knows the word, but not with this value, here, or on this kernel
 * `unknown`  dimmer does not model it; a real kernel may
 * `alias`    obeyed, under a name that Linux does not have
 */
export type Remark = { readonly kind: 'ignored' | 'unknown' | 'alias'; readonly word: string; readonly why: string };

export type BootParams = {
  readonly kernel: KernelName;
  /** mem=: RAM from this frame on does not exist, and memory added while booting must end before it. */
  readonly memEndPfn: number;
  readonly kernelcore: CoreRequest;
  readonly kernelcoreMirror: boolean;
  readonly movablecore: CoreRequest;
  readonly movableNode: boolean;
  readonly memhpDefaultState: AutoOnline;
  readonly memmapOnMemory: HotplugSettings['memmapOnMemory'];
  readonly onlinePolicy: OnlinePolicy;
  /** Percent of kernel memory. */
  readonly autoMovableRatio: number;
  readonly autoMovableNumaAware: boolean;
  readonly hotaddTreatAsMovable: boolean;
  /** Bytes. */
  readonly defaultHugepageSize: number;
  /** Sizes that were asked for, in the order of the command line; never two of one size. */
  readonly hugepages: readonly HugepageRequest[];
  /** 0: per-CPU lists are sized by the low watermark (spec 2.4). */
  readonly percpuPagelistHighFraction: number;
  /** A device asks for reports on free pages from the start. */
  readonly pageReporting: boolean;
  readonly pageReportingOrder: number;
  /** Words without effect, or obeyed under another name, in order. */
  readonly remarks: readonly Remark[];
  /** Words after "--", verbatim. */
  readonly initArgs: readonly string[];
};

/** mm/page_alloc.c: MIN_PERCPU_PAGELIST_HIGH_FRACTION. */
const MIN_HIGH_FRACTION = 8;
const MAX_UINT = 2 ** 32 - 1;
const NO_CORE: CoreRequest = { pages: 0, percent: 0 };

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Draft = Mutable<Omit<BootParams, 'hugepages'>> & { readonly remarks: Remark[]; readonly huge: HugepageParser };

/** Why a word had no effect; undefined when it was obeyed. */
type Verdict = string | undefined;
type Setter = (draft: Draft, value: string | undefined, word: string) => Verdict;

export type ParseOptions = {
  readonly kernel?: KernelName;
  /** Nodes that are online at boot, for hugepages=NODE:COUNT. Undefined: any. */
  readonly nodes?: readonly number[];
};

/**
 * What the machine of a spec was told on its command line, with the defaults of its kernel.
 *
 * Nodes with RAM or CPUs are online at boot; only they take huge pages.
 */
export function bootParamsOf(spec: MachineSpec): BootParams {
  const nodes = new Set<number>(spec.ram.filter((r) => r.offline !== true).map((r) => r.node));
  for (const [node, cpus] of spec.cpuMask ?? []) if (cpus.length > 0) nodes.add(node);
  return parseCommandLine(spec.cmdline ?? '', {
    ...(spec.kernel === undefined ? {} : { kernel: spec.kernel }),
    nodes: [...nodes],
  });
}

/**
 * The settings of memory hotplug that a machine boots with.
 *
 * vm.hotadd_memory_treat_as_movable: memory that would come online by itself comes as Movable, and where no neighbour
 * decides, `online` means Movable.
 */
export function hotplugSettingsOf(p: BootParams): HotplugSettings {
  const movable = p.hotaddTreatAsMovable;
  return {
    autoOnline: movable && p.memhpDefaultState === 'online' ? 'online_movable' : p.memhpDefaultState,
    onlinePolicy: p.onlinePolicy,
    autoMovable: { ratio: p.autoMovableRatio, numaAware: p.autoMovableNumaAware },
    memmapOnMemory: p.memmapOnMemory,
    movableNode: p.movableNode || movable,
  };
}

/** What a kernel does without a command line. */
export const defaultBootParams = (kernel: KernelName = '6.12'): BootParams => parseCommandLine('', { kernel });

/**
 * Reads a kernel command line.
 *
 * Any text is a command line: there is no refusal, only remarks. Cost O(length).
 */
export function parseCommandLine(line: string, options: ParseOptions = {}): BootParams {
  const kernel = options.kernel ?? '6.12';
  const draft: Draft = {
    kernel,
    memEndPfn: Number.POSITIVE_INFINITY,
    kernelcore: NO_CORE,
    kernelcoreMirror: false,
    movablecore: NO_CORE,
    movableNode: false,
    memhpDefaultState: KERNEL_PROFILES[kernel].defaultOnline,
    memmapOnMemory: 'N',
    onlinePolicy: 'contig-zones',
    autoMovableRatio: 301,
    autoMovableNumaAware: true,
    hotaddTreatAsMovable: false,
    defaultHugepageSize: BYTES_2M,
    percpuPagelistHighFraction: 0,
    pageReporting: false,
    pageReportingOrder: PAGEBLOCK_ORDER,
    remarks: [],
    initArgs: [],
    huge: new HugepageParser(options.nodes),
  };
  const words = splitArgs(line);
  const dashes = words.indexOf('--');
  for (const word of dashes < 0 ? words : words.slice(0, dashes)) {
    const { key, value } = argOf(word);
    const set = PARAMS.get(sameName(key));
    if (set === undefined) {
      draft.remarks.push({ kind: 'unknown', word, why: NOT_MODELLED.get(sameName(key)) ?? 'dimmer does not model it' });
      continue;
    }
    const why = set(draft, value, word);
    if (why !== undefined) draft.remarks.push({ kind: 'ignored', word, why });
  }
  const { huge, ...rest } = draft;
  const { requests, defaultSize, lost } = huge.finish();
  if (lost !== undefined) draft.remarks.push({ kind: 'ignored', ...lost });
  return {
    ...rest,
    defaultHugepageSize: defaultSize,
    hugepages: requests,
    initArgs: dashes < 0 ? [] : words.slice(dashes + 1),
  };
}

// ------------------------------------------------------------------------------------------------ one row a parameter

const alias = (d: Draft, word: string, why: string): void => void d.remarks.push({ kind: 'alias', word, why });

const highFraction: Setter = (d, value) => {
  const n = unsigned(value);
  if (n === undefined) return 'not a number: EINVAL';
  if (n !== 0 && n < MIN_HIGH_FRACTION) return `below ${MIN_HIGH_FRACTION}, the least that Linux takes: EINVAL`;
  d.percpuPagelistHighFraction = n;
  return undefined;
};

const treatAsMovable: Setter = (d, value, word) => {
  const on = bool(value);
  if (on === undefined) return NO_BOOL;
  d.hotaddTreatAsMovable = on;
  alias(d, word, 'in Linux this is memhp_default_state=online_movable, or online_policy=auto-movable with limits');
  return undefined;
};

const NO_VALUE = 'it needs a value: EINVAL';
const NO_BOOL = 'not a yes or no: EINVAL';
const READS_AS_ZERO = 'Linux reads this as 0, as if it were not there';

const PARAMS: ReadonlyMap<string, Setter> = new Map(
  Object.entries<Setter>({
    mem: (d, value) => {
      if (value === undefined) return NO_VALUE;
      if (value === 'nopentium') return 'only on 32-bit x86';
      const bytes = memparse(value);
      if (bytes === 0n) return 'no memory at all: EINVAL';
      // Each mem= removes what lies above it: the smallest wins. A part of a page is none.
      d.memEndPfn = Math.min(d.memEndPfn, pagesOf(bytes));
      return undefined;
    },
    kernelcore: (d, value) => {
      if (value?.split(',').includes('mirror')) {
        d.kernelcoreMirror = true;
        return undefined;
      }
      return setCore(value, d.kernelcore, (core) => {
        d.kernelcore = core;
      });
    },
    movablecore: (d, value, word) => {
      if (value === 'acpi') {
        d.movableNode = true;
        alias(d, word, 'obeyed as movable_node: memory that the SRAT calls hot-pluggable becomes Movable');
        return undefined;
      }
      return setCore(value, d.movablecore, (core) => {
        d.movablecore = core;
      });
    },
    movable_node: (d) => {
      d.movableNode = true; // whatever its value: Linux does not look at it
      return undefined;
    },
    memhp_default_state: (d, value) => {
      const state = AUTO_ONLINE.find((s) => s === value);
      if (state === undefined) return `not one of ${AUTO_ONLINE.join(', ')}`;
      d.memhpDefaultState = state;
      return undefined;
    },
    'memory_hotplug.memmap_on_memory': (d, value) => {
      const perBlock = KERNEL_PROFILES[d.kernel].memmapOnMemory === 'per-block';
      if (value === 'force' && perBlock) {
        d.memmapOnMemory = 'force';
        return undefined;
      }
      // A plain bool until it learned "force"; only a bool may come without a value.
      const on = value === undefined && perBlock ? undefined : bool(value);
      if (on === undefined) return value === undefined ? NO_VALUE : NO_BOOL;
      d.memmapOnMemory = on ? 'Y' : 'N';
      return undefined;
    },
    'memory_hotplug.online_policy': (d, value) => {
      const policy = ONLINE_POLICIES.find((p) => p === value);
      if (policy === undefined) return `not one of ${ONLINE_POLICIES.join(', ')}: EINVAL`;
      d.onlinePolicy = policy;
      return undefined;
    },
    'memory_hotplug.auto_movable_ratio': (d, value) => {
      const n = unsigned(value);
      if (n === undefined) return 'not an unsigned number: EINVAL';
      d.autoMovableRatio = n;
      return undefined;
    },
    'memory_hotplug.auto_movable_numa_aware': (d, value) => {
      const on = bool(value);
      if (on === undefined) return NO_BOOL;
      d.autoMovableNumaAware = on;
      return undefined;
    },
    hugepages: (d, value) => d.huge.hugepages(value),
    hugepagesz: (d, value) => d.huge.hugepagesz(value),
    default_hugepagesz: (d, value) => d.huge.defaultHugepagesz(value),
    'sysctl.vm.percpu_pagelist_high_fraction': highFraction,
    'vm.percpu_pagelist_high_fraction': (d, value, word) => {
      const why = highFraction(d, value, word);
      if (why === undefined) alias(d, word, 'in Linux this is sysctl.vm.percpu_pagelist_high_fraction');
      return why;
    },
    percpu_pagelist_high_fraction: (d, value, word) => {
      const why = highFraction(d, value, word);
      if (why === undefined) alias(d, word, 'in Linux this is sysctl.vm.percpu_pagelist_high_fraction');
      return why;
    },
    'page_reporting.page_reporting_order': (d, value) => {
      const n = unsigned(value);
      if (n === undefined || n > MAX_ORDER) return `not an order from 0 to ${MAX_ORDER}: EINVAL`;
      d.pageReportingOrder = n;
      return undefined;
    },
    page_reporting: (d, value, word) => {
      const on = bool(value);
      if (on === undefined) return NO_BOOL;
      d.pageReporting = on;
      alias(d, word, 'in Linux a device (virtio-balloon, Hyper-V) switches reporting on');
      return undefined;
    },
    'vm.hotadd_memory_treat_as_movable': treatAsMovable,
    'sysctl.vm.hotadd_memory_treat_as_movable': treatAsMovable,
  }),
);

/** Words of a real kernel that change memory, so that to leave them out changes the answer. */
const NOT_MODELLED: ReadonlyMap<string, string> = new Map(
  Object.entries({
    memmap: 'dimmer does not model it: change the RAM ranges of the machine instead',
    crashkernel: 'dimmer does not model it: name the range as reserved',
    cma: 'dimmer does not model it: there are no CMA areas at boot',
    hugetlb_cma: 'dimmer does not model it: there are no CMA areas at boot',
    numa: 'dimmer does not model it: give all RAM the same node instead',
    transparent_hugepage: 'dimmer does not model it: it is a setting of the watermarks',
    nr_cpus: 'dimmer does not model it: give the machine fewer CPUs',
    maxcpus: 'dimmer does not model it: give the machine fewer CPUs',
    swiotlb: 'dimmer does not model it: name the range as reserved',
  }),
);

// ------------------------------------------------------------------------------------------------------------- values

const pagesOf = (bytes: bigint): number => Number(bytes >> BigInt(PAGE_SHIFT)); // at most 2^52: exact

/** mm/mm_init.c: cmdline_parse_core(). A percentage of 0 leaves an earlier size standing, as there. */
function setCore(value: string | undefined, before: CoreRequest, set: (core: CoreRequest) => void): Verdict {
  if (value === undefined) return NO_VALUE;
  const { value: n, rest } = simpleStrtoull(value);
  if (rest.startsWith('%')) set({ ...before, percent: Number(n) });
  else set({ pages: pagesOf(memparse(value)), percent: 0 });
  if (!/^\d/.test(value)) return READS_AS_ZERO;
  return undefined;
}

/** kstrtouint() with base 0: nothing may follow. */
function unsigned(value: string | undefined): number | undefined {
  if (value === undefined || !/^\+?(0x[0-9a-f]+|0[0-7]*|[1-9]\d*)\n?$/i.test(value)) return undefined;
  const n = Number(simpleStrtoull(value.replace(/^\+/, '')).value);
  return n <= MAX_UINT ? n : undefined;
}

/** kstrtobool(): the first letter decides, or two of on and off. A bare word is yes. */
function bool(value: string | undefined): boolean | undefined {
  if (value === undefined || /^([yYtT1]|[oO][nN])/.test(value)) return true;
  return /^([nNfF0]|[oO][fF])/.test(value) ? false : undefined;
}
