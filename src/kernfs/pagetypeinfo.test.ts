import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { goldenText } from '../../test/golden/kernfs/load.ts';
import { parsePagetypeinfo, printPagetypeinfo } from './pagetypeinfo.ts';
import { formatProblem } from './text.ts';

const HOST = goldenText('host-6.18/pagetypeinfo');
const TWO_NODES = goldenText('guest-6.1-mixed-online/pagetypeinfo');

function of(text: string) {
  const parsed = parsePagetypeinfo(text);
  assert(parsed.ok, 'the text is sound', { problem: parsed.ok ? '' : formatProblem(parsed.error) });
  return parsed.value;
}
const refusal = (text: string) => {
  const parsed = parsePagetypeinfo(text);
  return parsed.ok ? undefined : formatProblem(parsed.error);
};

/** A small file made here, not recorded: two orders, with the columns that the recorded kernels lack. */
const MADE = `Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1 
Node    0, zone   Normal, type      Movable >100000      2 
Node    0, zone   Normal, type          CMA      3      4 
Node    0, zone   Normal, type      Isolate      0      0 

Number of blocks type       Movable          CMA      Isolate 
Node 0, zone   Normal           10            2            0 

Number of mixed blocks      Movable          CMA      Isolate 
Node 0, zone   Normal            1            0            0 
`;

describe('pagetypeinfo', () => {
  it('reads free chunks by type and pageblocks by zone', () => {
    const x = of(HOST);
    expect([x.pageblockOrder, x.pagesPerBlock]).toEqual([9, 512]);
    expect(x.types).toEqual(['Unmovable', 'Movable', 'Reclaimable', 'HighAtomic', 'Isolate']);
    expect(x.free.length).toBe(15);
    expect(x.free[11]).toMatchObject({ node: 0, zone: 'Normal', type: 'Movable' });
    expect(x.free[11].nrFree).toEqual([0, 0, 1, 979, 807, 1026, 955, 186, 128, 1, 25]);
    expect(x.blocks[2]).toEqual({ node: 0, zone: 'Normal', counts: [64, 3388, 132, 0, 0] });
    expect('mixed' in x).toBe(false);
  });
  it('the file repeats for each node', () => {
    const x = of(TWO_NODES);
    expect(x.blocks.map((b) => `${b.node} ${b.zone}`)).toEqual([
      '0 DMA',
      '0 DMA32',
      '1 DMA32',
      '1 Normal',
      '1 Movable',
    ]);
    expect(TWO_NODES.match(/Page block order/g)?.length).toBe(2);
  });
  it('">100000" is a lower bound; CMA and the mixed blocks of page_owner are read where they are', () => {
    const x = of(MADE);
    expect(x.free[0]).toMatchObject({ nrFree: [100000, 2], capped: [true, false] });
    expect(x.types).toEqual(['Movable', 'CMA', 'Isolate']);
    expect(x.mixed).toEqual([{ node: 0, zone: 'Normal', counts: [1, 0, 0] }]);
    expect(printPagetypeinfo(x)).toBe(MADE);
  });
  it('KF5 every single line is missed when it is missing', () => {
    for (const text of [HOST, TWO_NODES, MADE]) {
      const lines = text.split('\n').slice(0, -1);
      for (let i = 0; i < lines.length; i++) {
        const rest = `${lines.toSpliced(i, 1).join('\n')}\n`;
        expect(refusal(rest), `without line ${i + 1}, ${lines[i]}`).toMatch(/^\/proc\/pagetypeinfo, line \d+: \S/);
      }
    }
  });
  it('KF5 of all pieces of whole lines, only whole nodes can be taken away unseen', () => {
    const lines = TWO_NODES.split('\n').slice(0, -1);
    const nodeOf = (text: string, node: number) => {
      const x = of(text);
      return printPagetypeinfo({ ...x, free: x.free, blocks: x.blocks.filter((b) => b.node === node) });
    };
    const nodes = [nodeOf(TWO_NODES, 0), nodeOf(TWO_NODES, 1)];
    let accepted = 0;
    for (let start = 0; start < lines.length; start++) {
      for (let end = start + 1; end <= lines.length; end++) {
        const rest = lines.toSpliced(start, end - start);
        if (rest.length === 0) continue;
        const parsed = parsePagetypeinfo(`${rest.join('\n')}\n`);
        if (!parsed.ok) continue;
        accepted++;
        expect(nodes, `without lines ${start + 1}..${end}`).toContain(printPagetypeinfo(parsed.value));
      }
    }
    expect(accepted).toBeGreaterThan(0);
  });
  it('KF3 refusals say what was expected and where', () => {
    expect(refusal(`x\n`)).toBe('/proc/pagetypeinfo, line 1: expected "Page block order: N", found "x"');
    expect(refusal('Page block order: 9\n')).toBe(
      '/proc/pagetypeinfo, line 1: the file ends where "Pages per block:  N" should follow',
    );
    expect(refusal(HOST.replace('512', '256'))).toBe('/proc/pagetypeinfo, line 2: 256 pages per block are not 2^9');
    expect(refusal(MADE.replace('type          CMA', 'type      Isolate'))).toBe(
      '/proc/pagetypeinfo, line 6: the free counts of type CMA in zone Normal of node 0 are missing here',
    );
    expect(refusal(HOST.replace(/Node 0, zone {3}Normal .*\n/, ''))).toBe(
      '/proc/pagetypeinfo, line 15: zone Normal of node 0 has free counts but no pageblocks',
    );
    expect(refusal(MADE.replace('Number of mixed blocks      Movable', 'Number of mixed blocks    Unmovable'))).toMatch(
      /the same migrate types/,
    );
    expect(refusal(MADE.replace(/(mixed[\s\S]*)Normal/, '$1  DMA'))).toBe(
      '/proc/pagetypeinfo, line 13: the zones with mixed blocks are not the zones above',
    );
    expect(refusal(MADE.replace('>100000', '  >1000'))).toMatch(/line 5: expected a zone, a type and 2 free counts/);
    expect(refusal(HOST.replaceAll(/^Node( +)0(, zone {3}Normal)/gm, 'Node$11$2'))).toMatch(
      /zone Normal of node 1 does not belong here$/,
    );
    expect(refusal(HOST + HOST)).toMatch(/the part of node 0 comes after that of node 0/);
    expect(refusal(HOST + MADE)).toMatch(/the headers of this node differ/);
  });
});
