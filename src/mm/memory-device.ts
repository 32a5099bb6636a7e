// Memory blocks as devices: what a write to memoryN/state and memoryN/online means, and what a DIMM's driver does.
//
//   state  <- online*     already online: EINVAL, but the word is remembered        else online as the word says
//   state  <- offline     offline already: EINVAL                                   else offline
//   online <- 1, 0        no-op when it is so already
//   the driver's online   the remembered word, once; without one, the policy
//
//   eject of a DIMM   pass 1: offline every block, whatever fails ──all went──> remove
//                     pass 2: those that failed, again (blocks that hosted struct pages of the others can go now); stop at
//                             the first that fails again
//                     └── refused: blocks that this eject took offline come back online, each by its remembered word or
//                         the policy: a mixed DIMM may come back in other zones than it had (lab facts 2, 4)
//
// Follows Linux v6.1 and v6.12 drivers/base/memory.c: state_store(), memory_subsys_online(); drivers/base/core.c:
// device_online(), device_offline(); drivers/acpi/scan.c: acpi_scan_try_to_offline(); acpi_memhotplug.c (spec 1.10).

import { err, type Result } from '#base/result';
import { type BlockId, type NodeId, toBlockId } from '#base/units';
import type { Machine } from './machine.ts';
import type { AddOptions, AddReport, MemoryRange } from './memory-add.ts';
import { BLOCK_OFFLINE, BLOCK_ONLINE } from './memory-block.ts';
import type { OnlineReport } from './memory-online.ts';
import type { RemoveReport } from './memory-remove.ts';
import { type Refusal, refusal } from './refusal.ts';
import type { OnlineType } from './zone-choice.ts';

export const STATE_WORDS = ['offline', 'online', 'online_kernel', 'online_movable'] as const;
export type StateWord = (typeof STATE_WORDS)[number];

/** The word of a write, one newline behind it allowed; undefined for any other text. */
export function stateWord(text: string): StateWord | undefined {
  const word = text.endsWith('\n') ? text.slice(0, -1) : text;
  return STATE_WORDS.find((w) => w === word);
}

const TYPES: readonly (OnlineType | undefined)[] = [undefined, 'online', 'kernel', 'movable'];
const TYPE_OF: Readonly<Record<Exclude<StateWord, 'offline'>, number>> = {
  online: 1,
  online_kernel: 2,
  online_movable: 3,
};

/** Online without a word: by the one that a write left behind, which is then forgotten, else by policy. */
export function deviceOnline(m: Machine, id: BlockId): Result<OnlineReport, Refusal> {
  const row = m.blocks.rowOf(id);
  const how = TYPES[row < 0 ? 0 : (m.blocks.onlineType[row] as number)] ?? 'online';
  const done = m.online(id, how);
  if (row >= 0) m.blocks.onlineType[row] = 0;
  return done;
}

/** `state` <- an online word. `state` <- offline is Machine.offline, or an OfflineWork. */
export function storeOnline(
  m: Machine,
  id: BlockId,
  word: Exclude<StateWord, 'offline'>,
): Result<OnlineReport, Refusal> {
  const row = m.blocks.rowOf(id);
  if (row < 0) return err(refusal('no-such-block', `there is no memory block ${id}`));
  m.blocks.onlineType[row] = TYPE_OF[word];
  if (m.blocks.state[row] === BLOCK_OFFLINE) return deviceOnline(m, id);
  return err(refusal('not-offline', `block ${id} is ${m.blocks.stateAt(row)}, not offline`));
}

/**
 * A DIMM is there: what its ACPI driver does. A group of its own, and it asks to host its memmap (spec 4.3), or for what
 * `wish` says of its struct pages (memmap-place.ts).
 */
export function plugDimm(
  m: Machine,
  range: MemoryRange,
  node: NodeId,
  wish: Pick<AddOptions, 'memmap' | 'memmapHosts' | 'gigantic'> = {},
): Result<AddReport, Refusal> {
  const group = m.hotplug.groups.register('static', node, range.end - range.start);
  const added = m.addMemory(range, node, { memmap: 'self-block', ...wish, group });
  if (!added.ok) m.hotplug.groups.unregister(group);
  return added;
}

export type EjectReport = {
  /** Blocks that went offline in this eject and came back, with the zone that they came to. */
  readonly back: readonly OnlineReport[];
  readonly removed: RemoveReport | undefined;
  /** Why it stays. */
  readonly refusal: Refusal | undefined;
};

/**
 * A DIMM is to go. @param offline  takes one block offline, to the end; default: Machine.offline
 */
export function ejectDimm(
  m: Machine,
  range: MemoryRange,
  offline: (id: BlockId) => Result<unknown, Refusal> = (id) => m.offline(id),
): EjectReport {
  const ids: BlockId[] = [];
  for (let id = range.start / m.blockPages; id < range.end / m.blockPages; id++) ids.push(toBlockId(id));
  const online = (id: BlockId): boolean => m.blocks.state[m.blocks.rowOf(id)] === BLOCK_ONLINE;
  const went: BlockId[] = [];
  const tryOffline = (id: BlockId): Refusal | undefined => {
    const done = offline(id);
    if (done.ok) went.push(id);
    return done.ok ? undefined : done.error;
  };
  const failed = ids.filter((id) => online(id) && tryOffline(id) !== undefined);
  let why: Refusal | undefined;
  for (const id of failed) {
    why = tryOffline(id);
    if (why !== undefined) break;
  }
  if (why === undefined) {
    const groups = new Set(ids.map((id) => m.blocks.group[m.blocks.rowOf(id)] as number));
    const removed = m.removeMemory(range);
    if (!removed.ok) return { back: [], removed: undefined, refusal: removed.error };
    m.hotplug.groups.forEach((_, g) => {
      if (groups.has(g) && !m.blocks.group.includes(g)) m.hotplug.groups.unregister(g);
    });
    return { back: [], removed: removed.value, refusal: undefined };
  }
  m.onLog?.({ level: 'warn', text: `memory memory${failed.find(online) ?? ids[0]}: Offline failed.` });
  const back: OnlineReport[] = [];
  for (const id of went.sort((a, b) => a - b)) {
    const done = deviceOnline(m, id);
    if (done.ok) back.push(done.value);
  }
  return { back, removed: undefined, refusal: why };
}
