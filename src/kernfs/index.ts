// The kernel's own files, parsed and printed: the public face of this layer (package export "dimmer/kernfs").
//
// Text in, values out, and back to the same bytes; refusals are values, nothing here reads a disk. A KernTree says
// where the text comes from. One module per file; each explains its layout.

export type { BuddyinfoZone } from './buddyinfo.ts';
export { freePagesOf, parseBuddyinfo, printBuddyinfo } from './buddyinfo.ts';
export type { Cmdline, CmdlineWord } from './cmdline.ts';
export { cmdlineValue, cmdlineValues, parseCmdline, printCmdline } from './cmdline.ts';
export type { IomemEntry, PfnRange } from './iomem.ts';
export { iomemHidden, parseIomem, printIomem, systemRamPfnRanges } from './iomem.ts';
export type { PageFlag, Words } from './kpageflags.ts';
export { decodeFlags, formatFlags, hasFlag, KPF, PAGE_FLAGS, WORD_STRIDE, wordsOf } from './kpageflags.ts';
export { isLabSnapshot, labProblems, labTree } from './lab-snapshot.ts';
export { parseList, printList } from './list-format.ts';
export type { MemhpParams, MemmapOnMemory, OnlinePolicy } from './memhp-params.ts';
export { MEMHP_PARAMS_DIR, printMemhpParams, readMemhpParams } from './memhp-params.ts';
export type { Meminfo, MeminfoAmount } from './meminfo.ts';
export { meminfoKb, parseMeminfo, printMeminfo } from './meminfo.ts';
export type { AutoOnlineBlocks, BlockState, MemoryBlock, MemoryBlocks } from './memory-blocks.ts';
export {
  blockName,
  MEMORY_DIR,
  printAutoOnlineBlocks,
  printBlockSizeBytes,
  printMemoryBlock,
  printPhysDevice,
  printPhysIndex,
  printRemovable,
  printState,
  printValidZones,
  readMemoryBlock,
  readMemoryBlocks,
} from './memory-blocks.ts';
export { treeFromFiles } from './memory-tree.ts';
export type { Nodes, NumaNode } from './nodes.ts';
export { NODE_DIR, printDistances, printListFile, readNodes } from './nodes.ts';
export type { PagetypeBlocks, PagetypeFree, Pagetypeinfo } from './pagetypeinfo.ts';
export { parsePagetypeinfo, printPagetypeinfo } from './pagetypeinfo.ts';
export type { KernfsProblem, KernTree } from './source.ts';
export type { Srat, SratCpu, SratEntry, SratMemory, SratOther } from './srat.ts';
export { parseSrat, printSrat } from './srat.ts';
export { formatProblem } from './text.ts';
export type { KernelVersion } from './version.ts';
export { isAtLeast, parseVersion, printVersion } from './version.ts';
export type { Vmstat } from './vmstat.ts';
export { parseNodeVmstat, parseVmstat, printVmstat } from './vmstat.ts';
export type { ZoneLabel } from './zone-label.ts';
export { ZONE_NAMES } from './zone-label.ts';
export type { NamedCount, ZoneinfoPageset, ZoneinfoZone } from './zoneinfo.ts';
export { isPopulated, parseZoneinfo, printZoneinfo, statOf } from './zoneinfo.ts';
