// /sys/devices/system/memory: the memory blocks of a Machine, read and written.
//
//   auto_online_blocks   0644   offline | online | online_kernel | online_movable
//   block_size_bytes     0444   hexadecimal without 0x
//   crash_hotplug        0444   0: crash tools do not learn of hotplug by themselves (kernels that have the file)
//   soft_offline_page, hard_offline_page   0200   a physical address: memory-failure-files.ts
//   memoryN/             state, online 0644: block-store.ts; valid_zones, removable, phys_index, phys_device 0444;
//                        uevent, power/, subsystem; a link to each node that it is on
//
// There is no `probe`: kernels of x86 that ship do not have it. Follows Linux v6.12 drivers/base/memory.c (spec 1.10, 6).

import { type BlockId, type NodeId, toBlockId, toNodeId } from '#base/units';
import {
  blockName,
  printBlockSizeBytes,
  printPhysDevice,
  printPhysIndex,
  printRemovable,
  printState,
  printValidZones,
} from '#kernfs/memory-blocks';
import { numberIn } from '#kernfs/sysfs';
import { PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from '#mm/geometry';
import { AUTO_ONLINE } from '#mm/kernel-profile';
import type { Machine } from '#mm/machine';
import { hardOfflinePageStore, softOfflinePageStore } from '#mm/memory-failure';
import { storeOnlineFlag, storeState } from './block-store.ts';
import type { Counters } from './counters.ts';
import { powerDir, ueventFile } from './device-files.ts';
import { failPage, hasMemoryFailure } from './memory-failure-files.ts';
import type { TreeContext } from './tree-context.ts';
import { attribute, type DirNode, fixedDir, growingDir, link, type TreeNode, trigger, word } from './tree-node.ts';

export function memoryDir(c: TreeContext, counters: Counters): DirNode {
  const { machine: m, profile } = c;
  const fails = hasMemoryFailure(c, counters);
  return growingDir(
    {
      auto_online_blocks: attribute(
        () => `${m.hotplug.settings.autoOnline}\n`,
        (text) => {
          const how = AUTO_ONLINE.find((w) => w === word(text));
          if (how === undefined) return 'EINVAL';
          m.hotplug.settings.autoOnline = how;
          return 'ok';
        },
      ),
      block_size_bytes: attribute(() => printBlockSizeBytes(m.blockPages * PAGE_SIZE)),
      crash_hotplug: profile.crashHotplug ? attribute(() => '0\n') : undefined,
      hard_offline_page: fails ? trigger((text) => failPage(c, text, hardOfflinePageStore)) : undefined,
      power: powerDir,
      soft_offline_page: fails ? trigger((text) => failPage(c, text, softOfflinePageStore)) : undefined,
      uevent: ueventFile,
    },
    {
      names: () => Array.from(m.blocks.id, (id) => blockName(toBlockId(id))),
      at: (name) => {
        const id = numberIn(name, 'memory');
        return id === undefined || m.blocks.rowOf(toBlockId(id)) < 0 ? undefined : blockDir(m, toBlockId(id));
      },
    },
  );
}

function blockDir(m: Machine, id: BlockId): DirNode {
  const files: Record<string, TreeNode> = {
    online: attribute(
      () => (m.block(id)?.state === 'offline' ? '0\n' : '1\n'),
      (text, options) => storeOnlineFlag(m, id, text, options),
    ),
    phys_device: attribute(() => printPhysDevice(0)),
    phys_index: attribute(() => printPhysIndex(id)),
    power: powerDir,
    removable: attribute(() => printRemovable(true)),
    state: attribute(
      () => printState(m.block(id)?.state ?? 'offline'),
      (text, options) => storeState(m, id, text, options),
    ),
    subsystem: link('../../../../bus/memory'),
    uevent: ueventFile,
    valid_zones: attribute(() => printValidZones(m.validZones(id))),
  };
  for (const node of nodesOfBlock(m, id)) files[`node${node}`] = link(`../../node/node${node}`);
  return fixedDir(files);
}

/**
 * Nodes that a block is linked to, ascending: its own, and at boot those of every pageblock in it. Cost O(pageblocks).
 */
export function nodesOfBlock(m: Machine, id: BlockId): NodeId[] {
  const row = m.blocks.rowOf(id);
  if (row < 0) return [];
  const nodes = new Set<number>([m.blocks.node[row] as number]);
  // Only a block in no single pool can be on two nodes.
  if (m.blocks.pool[row] === -1) for (const pool of poolsOfBlock(m, id)) nodes.add(pool);
  return [...nodes].sort((a, b) => a - b).map(toNodeId);
}

/** Nodes of the pools that own pageblocks of the block. */
function poolsOfBlock(m: Machine, id: BlockId): Set<number> {
  const nodes = new Set<number>();
  for (let pfn = id * m.blockPages; pfn < (id + 1) * m.blockPages; pfn += PAGES_PER_SECTION) {
    const slot = m.sections.slotOf(pfn / PAGES_PER_SECTION);
    if (slot < 0) continue;
    const first = (slot * PAGES_PER_SECTION) >>> PAGEBLOCK_ORDER;
    for (let pb = first; pb < first + PAGES_PER_SECTION / PAGEBLOCK_PAGES; pb++) {
      const pool = m.pools[m.owners.zone[pb] as number];
      if (pool !== undefined) nodes.add(pool.node);
    }
  }
  return nodes;
}
