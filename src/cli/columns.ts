// Columns of block rows, shared by check and ls blocks. Names, order and wording of the first seven are lsmem's.

import { formatSize, hex } from '#base/format';
import type { CheckRow } from '#query/index';
import { formatMs, VERDICT_PAINT } from './style.ts';
import type { Column } from './table.ts';

export const sizeText = (bytes: number, inBytes: boolean): string => (inBytes ? String(bytes) : formatSize(bytes));

/** @param shape  addressDigits: 16 as lsmem prints them, fewer to save room */
export function blockColumns(shape: { inBytes: boolean; addressDigits: number }): readonly Column<CheckRow>[] {
  const { inBytes, addressDigits } = shape;
  return [
    {
      name: 'RANGE',
      align: 'left',
      help: 'physical addresses, first and last byte',
      narrow: 'drop',
      text: (r) => `0x${hex(r.startPhys, addressDigits)}-0x${hex(r.endPhys - 1, addressDigits)}`,
    },
    {
      name: 'SIZE',
      align: 'right',
      hint: 5,
      help: 'size (IEC units; bytes with -b)',
      text: (r) => sizeText(r.endPhys - r.startPhys, inBytes),
    },
    { name: 'STATE', align: 'right', help: 'online, offline or going-offline', text: (r) => r.state },
    {
      name: 'REMOVABLE',
      align: 'right',
      help: 'what sysfs says; "yes" for every online block of a kernel that can hot-remove: it predicts nothing',
      text: (r) => (r.state !== 'online' || r.removable === undefined ? '' : r.removable ? 'yes' : 'no'),
    },
    {
      name: 'BLOCK',
      align: 'right',
      help: 'memory block numbers, as in block:32-39',
      text: (r) => (r.firstBlock === r.lastBlock ? `${r.firstBlock}` : `${r.firstBlock}-${r.lastBlock}`),
    },
    { name: 'NODE', align: 'right', help: 'NUMA node', text: (r) => String(r.nodes[0] ?? 0) },
    {
      name: 'ZONES',
      align: 'right',
      help: 'zone; where an offline block may go; None when the kernel names none',
      text: (r) => (r.zones.length === 0 ? 'None' : r.zones.join('/')),
    },
    {
      name: 'VERDICT',
      align: 'left',
      help: 'would it go offline? yes, no, maybe; a dash when it is offline',
      text: (r) => r.verdict ?? '-',
      paint: (r) => (r.verdict === undefined ? 'dim' : VERDICT_PAINT[r.verdict]),
    },
    {
      name: 'ERRNO',
      align: 'left',
      help: 'what Linux would answer: EBUSY at once, EINVAL at once; EINTR after trying until a signal',
      text: (r) => r.errno ?? '',
    },
    {
      name: 'BLOCKING',
      align: 'right',
      help: 'pages that stand in the way, or may',
      text: (r) => String(r.blockingPages),
    },
    {
      name: 'MOVE',
      align: 'right',
      help: 'pages in use that would have to move; a dash where it was not tried, or not seen',
      text: (r) => (r.predictedMs.value === 0 ? '-' : String(r.pagesToMigrate.value)),
    },
    {
      name: 'TIME',
      align: 'right',
      help: 'predicted time to take it offline (an assumption: good for comparing, not for clocks)',
      text: (r) =>
        r.predictedMs.value === 0 ? '' : inBytes ? String(r.predictedMs.value) : formatMs(r.predictedMs.value),
    },
    {
      name: 'BASIS',
      align: 'left',
      help: 'what the verdict rests on: measured, derived or assumed',
      text: (r) => r.provenance,
    },
    { name: 'REASON', align: 'left', help: 'why, in words', prose: true, text: (r) => r.reason },
  ];
}
