// Observation: what one machine is like now, as far as a plan needs to know: blocks, devices, and how much is free.
//
//   KernTree of a live root, a guest read through its agent, a capture, a twin's tree
//      /sys/devices/system/memory/...                 blocks, zones, nodes, auto_online_blocks        inside the guest
//      /proc/meminfo, /proc/buddyinfo, /proc/zoneinfo how much is free, in which chunks               inside the guest
//      /qmp/query-memory-devices, ...                 the hypervisor's replies, untouched             outside
//          └──> observe(tree) ──> Observation ──> stateLines ──> hash: what a plan assumes
//
// What a plan waits for is always read from here, never from the reply to a request: a DIMM that QEMU has taken is not yet
// memory that the guest has (lab fact 3). Pure: the same tree gives the same observation.
//
// The hypervisor's files are the `return` member of each reply as JSON on one line. Absent: no hypervisor is asked (a Linux
// host, an old capture). Spec 7.1.

import { err, ok, type Result } from '#base/result';
import { parseBuddyinfo } from '#kernfs/buddyinfo';
import { meminfoKb, parseMeminfo } from '#kernfs/meminfo';
import { type AutoOnlineBlocks, readMemoryBlocks } from '#kernfs/memory-blocks';
import type { KernTree } from '#kernfs/source';

/** One memory block. `zone` is where it is; undefined while it is not online, or lies in several ("none"). */
export type BlockSeen = {
  readonly id: number;
  readonly state: string;
  readonly zone: string | undefined;
  /** valid_zones as printed: of an offline block the zones it may go to, default first. */
  readonly validZones: readonly string[];
  readonly nodes: readonly number[];
};

/** Bytes throughout. A DIMM counts here from device_add on, before any guest sees it. */
export type DimmSeen = {
  readonly id: string;
  readonly addr: number;
  readonly size: number;
  readonly node: number;
  readonly slot: number;
  /** Id of its memory backend, without "/objects/". */
  readonly memdev: string;
};

export type VirtioMemSeen = {
  readonly id: string;
  readonly addr: number;
  readonly node: number;
  readonly requested: number;
  /** Plugged: what the guest's driver has accepted. */
  readonly size: number;
  readonly maxSize: number;
  readonly blockSize: number;
  readonly memdev: string;
};

export type HypervisorSeen = {
  /** Boot memory, bytes. */
  readonly baseBytes: number;
  /** DIMMs whole, virtio-mem by size. */
  readonly pluggedBytes: number;
  /** maxmem=; undefined where the machine does not tell. */
  readonly maxBytes?: number;
  /** slots= in all, and those taken. */
  readonly slots?: { readonly total: number; readonly used: readonly number[] };
  /** Ascending by address. */
  readonly dimms: readonly DimmSeen[];
  readonly virtioMem: readonly VirtioMemSeen[];
  /**
   * What the balloon leaves of the boot memory; undefined without a balloon. QEMU counts DIMMs among what a balloon could take
   * (get_current_ram_size: 1.5 GiB asked of 1 GiB and a DIMM of 1 GiB takes half of a GiB), and virtio-mem not; here DIMMs
   * are left out, so that the figure does not change when one comes or goes.
   */
  readonly balloonBytes?: number;
  /** running, paused, ... as query-status says. */
  readonly status?: string;
};

export type FreeSeen = {
  readonly node: number;
  readonly zone: string;
  /** Free chunks by order, 0 to 10. */
  readonly nrFree: readonly number[];
};

export type Observation = {
  readonly blockBytes: number;
  readonly autoOnline: AutoOnlineBlocks | undefined;
  /** Ascending by id. */
  readonly blocks: readonly BlockSeen[];
  readonly memTotal: number;
  readonly memFree: number;
  readonly memAvailable: number | undefined;
  readonly free: readonly FreeSeen[];
  /** Huge pages by node and size in bytes: in the pool, of them free. Node -1: the machine's sum, where no node tells. */
  readonly hugePages: readonly {
    readonly node: number;
    readonly bytes: number;
    readonly total: number;
    readonly free: number;
  }[];
  readonly hypervisor: HypervisorSeen | undefined;
};

/** Where the hypervisor's replies lie in a tree, and the request that each answers. */
export const QMP_FILES = Object.freeze({
  devices: '/qmp/query-memory-devices',
  summary: '/qmp/query-memory-size-summary',
  slots: '/qmp/query-acpi-ospm-status',
  balloon: '/qmp/query-balloon',
  status: '/qmp/query-status',
  /** qom-get of /machine, property "memory": {size, "max-size", slots}; QEMU 7.1 and later. */
  machine: '/qmp/machine-memory',
});

const KB = 1024;

/** One sentence when the tree is no machine, or a file of it makes no sense. Cost: five small files a block. */
export function observe(tree: KernTree): Result<Observation, string> {
  const blocks = readMemoryBlocks(tree);
  if (!blocks.ok) return err(`${blocks.error.file}: ${blocks.error.reason}`);
  const meminfo = parseMeminfo(tree.readText('/proc/meminfo') ?? '');
  if (!meminfo.ok) return err(`${meminfo.error.file}: ${meminfo.error.reason}`);
  const total = meminfoKb(meminfo.value, 'MemTotal');
  const free = meminfoKb(meminfo.value, 'MemFree');
  if (total === undefined || free === undefined) return err('/proc/meminfo: MemTotal and MemFree are not both there');
  const available = meminfoKb(meminfo.value, 'MemAvailable');
  const buddy = parseBuddyinfo(tree.readText('/proc/buddyinfo') ?? '');
  if (!buddy.ok) return err(`${buddy.error.file}: ${buddy.error.reason}`);
  const hypervisor = readHypervisor(tree);
  if (!hypervisor.ok) return hypervisor;
  return ok({
    blockBytes: blocks.value.blockSizeBytes,
    autoOnline: blocks.value.autoOnlineBlocks,
    blocks: blocks.value.blocks.map((b) => ({
      id: b.id,
      state: b.state,
      zone: b.state === 'online' && b.validZones?.length === 1 ? b.validZones[0] : undefined,
      validZones: b.validZones ?? [],
      nodes: b.nodes,
    })),
    memTotal: total * KB,
    memFree: free * KB,
    memAvailable: available === undefined ? undefined : available * KB,
    free: buddy.value.map((z) => ({ node: z.node, zone: z.zone, nrFree: z.nrFree })),
    hugePages: readHugePages(tree),
    hypervisor: hypervisor.value,
  });
}

function readHugePages(tree: KernTree): Observation['hugePages'] {
  const found: { node: number; bytes: number; total: number; free: number }[] = [];
  const readDir = (dir: string, node: number): void => {
    for (const name of tree.list(dir)) {
      const size = /^hugepages-(\d+)kB$/.exec(name);
      const total = Number.parseInt(tree.readText(`${dir}/${name}/nr_hugepages`) ?? '', 10);
      const free = Number.parseInt(tree.readText(`${dir}/${name}/free_hugepages`) ?? '', 10);
      if (size !== null && Number.isInteger(total) && Number.isInteger(free))
        found.push({ node, bytes: Number(size[1]) * KB, total, free });
    }
  };
  for (const name of tree.list('/sys/devices/system/node')) {
    const node = /^node(\d+)$/.exec(name);
    if (node !== null) readDir(`/sys/devices/system/node/${name}/hugepages`, Number(node[1]));
  }
  if (found.length === 0) readDir('/sys/kernel/mm/hugepages', -1);
  return found.sort((a, b) => a.node - b.node || a.bytes - b.bytes);
}

type Json = Readonly<Record<string, unknown>>;

function readHypervisor(tree: KernTree): Result<HypervisorSeen | undefined, string> {
  const text = tree.readText(QMP_FILES.devices);
  if (text === undefined) return ok(undefined);
  const devices = parseJson(text);
  if (!Array.isArray(devices)) return err(`${QMP_FILES.devices}: not a list of devices`);
  const dimms: DimmSeen[] = [];
  const virtioMem: VirtioMemSeen[] = [];
  for (const entry of devices as { type?: unknown; data?: Json }[]) {
    const { type, data } = entry;
    if (data === undefined) continue;
    const memdev = String(data.memdev ?? '').replace(/^\/objects\//, '');
    const id = String(data.id ?? '');
    if (type === 'dimm') {
      const [addr, size, node, slot] = ['addr', 'size', 'node', 'slot'].map((k) => Number(data[k]));
      if (![addr, size, node, slot].every(Number.isSafeInteger))
        return err(`${QMP_FILES.devices}: DIMM "${id}" is not whole`);
      dimms.push({ id, addr, size, node, slot, memdev } as DimmSeen);
    } else if (type === 'virtio-mem') {
      const words = ['memaddr', 'node', 'requested-size', 'size', 'max-size', 'block-size'];
      const [addr, node, requested, size, maxSize, blockSize] = words.map((k) => Number(data[k]));
      if (![addr, node, requested, size, maxSize, blockSize].every(Number.isSafeInteger))
        return err(`${QMP_FILES.devices}: virtio-mem device "${id}" is not whole`);
      virtioMem.push({ id, addr, node, requested, size, maxSize, blockSize, memdev } as VirtioMemSeen);
    }
  }
  const summary = readObject(tree, QMP_FILES.summary);
  const machine = readObject(tree, QMP_FILES.machine);
  const slots = parseJson(tree.readText(QMP_FILES.slots) ?? '');
  const balloon = Number(readObject(tree, QMP_FILES.balloon)?.actual);
  const status = readObject(tree, QMP_FILES.status)?.status;
  const maxBytes = Number(machine?.['max-size']);
  const used = dimms.map((d) => d.slot);
  const total = Array.isArray(slots)
    ? (slots as Json[]).filter((s) => s['slot-type'] === 'DIMM').length
    : Number(machine?.slots);
  const byAddress = (a: { addr: number }, b: { addr: number }): number => a.addr - b.addr;
  return ok({
    baseBytes: Number(summary?.['base-memory'] ?? 0),
    pluggedBytes: Number(summary?.['plugged-memory'] ?? 0),
    ...(Number.isSafeInteger(maxBytes) ? { maxBytes } : {}),
    ...(Number.isSafeInteger(total) ? { slots: { total, used: used.toSorted((a, b) => a - b) } } : {}),
    dimms: dimms.sort(byAddress),
    virtioMem: virtioMem.sort(byAddress),
    ...(Number.isSafeInteger(balloon) ? { balloonBytes: balloon - dimms.reduce((n, d) => n + d.size, 0) } : {}),
    ...(typeof status === 'string' ? { status } : {}),
  });
}

function readObject(tree: KernTree, file: string): Json | undefined {
  const value = parseJson(tree.readText(file) ?? '');
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Ids of the blocks that lie in [addr, addr + size), whether they are there or not. */
export function blocksWithin(o: Pick<Observation, 'blockBytes'>, addr: number, size: number): number[] {
  const first = Math.floor(addr / o.blockBytes);
  const end = Math.ceil((addr + size) / o.blockBytes);
  return Array.from({ length: end - first }, (_, k) => first + k);
}

/**
 * What a plan assumes of a machine, one line each and in a fixed order: every block with state and zone, every device. What
 * changes by itself (free memory, the plugged size of a virtio-mem device) is not among it: a plan checks that step by step.
 */
export function stateLines(o: Observation): string[] {
  const lines = [`blocks of ${o.blockBytes} bytes`, `auto_online_blocks ${o.autoOnline ?? 'absent'}`];
  for (const b of o.blocks) lines.push(`block ${b.id} ${b.state} ${b.zone ?? '-'} node ${b.nodes.join('+') || '-'}`);
  const h = o.hypervisor;
  if (h === undefined) return lines;
  for (const d of h.dimms) lines.push(`dimm ${d.id} at 0x${d.addr.toString(16)} ${d.size} node ${d.node}`);
  for (const v of h.virtioMem) lines.push(`virtio-mem ${v.id} requested ${v.requested} of ${v.maxSize} node ${v.node}`);
  if (h.balloonBytes !== undefined) lines.push(`balloon ${h.balloonBytes}`);
  return lines;
}

/** 64 bits in hexadecimal over lines (FNV-1a and murmur steps): for stale plans and torn journals, not for security. */
export function hashLines(lines: readonly string[]): string {
  let a = 0x811c9dc5;
  let b = 0x1b873593;
  for (const line of lines) {
    for (let k = 0; k < line.length; k++) {
      const c = line.charCodeAt(k);
      a = Math.imul(a ^ c, 0x01000193);
      b = Math.imul(b ^ (c + (a >>> 5)), 0x85ebca6b) ^ (b >>> 13);
    }
    a = Math.imul(a ^ 10, 0x01000193);
    b = Math.imul(b ^ 10, 0x85ebca6b);
  }
  const hex = (n: number): string => (n >>> 0).toString(16).padStart(8, '0');
  return hex(a) + hex(b);
}
