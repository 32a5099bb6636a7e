import { describe, expect, it } from 'vitest';
import { classify, type FrameKind, isDroppable, pinSign } from './classify.ts';

const BITS: Readonly<Record<string, number>> = {
  locked: 0,
  referenced: 2,
  uptodate: 3,
  dirty: 4,
  lru: 5,
  active: 6,
  slab: 7,
  writeback: 8,
  buddy: 10,
  mmap: 11,
  anon: 12,
  swapbacked: 14,
  head: 15,
  tail: 16,
  huge: 17,
  unevictable: 18,
  hwpoison: 19,
  nopage: 20,
  ksm: 21,
  thp: 22,
  offline: 23,
  zero: 24,
  idle: 25,
  pgtable: 26,
  reserved: 32,
  mlocked: 33,
  mappedtodisk: 34,
  private: 35,
  owner: 37,
};

/** "lru|anon" as the two halves of the kernel's word. */
function word(flags: string): [number, number] {
  let lo = 0;
  let hi = 0;
  for (const name of flags.split('|').filter((s) => s !== '')) {
    const bit = BITS[name];
    if (bit < 32) lo |= 1 << bit;
    else hi |= 1 << (bit - 32);
  }
  return [lo, hi];
}

/** Every kind of word that was read in guests with 6.1 and 6.12 and on a host with 6.18; kernels in the last column. */
const SEEN: readonly (readonly [flags: string, kind: FrameKind, where: string])[] = [
  ['nopage', 'hole', '6.1 6.12'],
  ['buddy', 'free', 'all'],
  ['uptodate|buddy', 'free', '6.18'],
  ['', 'unflagged', 'all'],
  ['slab', 'slab', 'all'],
  ['slab|head', 'slab', 'all'],
  ['slab|tail', 'slab', 'all'],
  ['slab|anon', 'slab', '6.18'],
  ['slab|anon|ksm', 'slab', '6.12 6.18: the bits are others there'],
  ['slab|anon|tail|ksm', 'slab', '6.12 6.18'],
  ['pgtable', 'pagetable', 'all'],
  ['referenced|pgtable', 'pagetable', '6.18'],
  ['head', 'driver', 'all'],
  ['tail', 'driver', 'all'],
  ['head|huge', 'hugetlb', '6.1'],
  ['tail|huge', 'hugetlb', '6.1'],
  ['offline', 'balloon', '6.1'],
  ['dirty|offline', 'balloon', '6.1: virtio-mem, never onlined'],
  ['reserved', 'reserved', 'all'],
  ['mmap|reserved', 'reserved', '6.1 6.18'],
  ['zero|reserved', 'reserved', 'all: the zero page'],
  ['reserved|private', 'reserved', '6.1 6.12'],
  ['owner', 'selfmemmap', '6.12'],
  ['reserved|owner', 'selfmemmap', '6.1'],
  ['uptodate|lru|mmap|anon|swapbacked', 'anonymous', '6.1 6.18'],
  ['uptodate|lru|mmap|anon|swapbacked|ksm', 'anonymous', '6.12: KSM on every anonymous page'],
  ['referenced|uptodate|anon|swapbacked|ksm|mappedtodisk', 'anonymous', '6.12: on its way to the LRU'],
  ['uptodate|lru|mmap|anon|swapbacked|unevictable|mlocked', 'anonymous', '6.1 6.18'],
  ['uptodate|lru|mmap|anon|swapbacked|head|thp|mappedtodisk', 'anonymous', '6.1 6.18'],
  ['mmap|anon|tail|thp', 'anonymous', '6.1: tails are not on the LRU'],
  ['referenced|uptodate|dirty|lru|swapbacked', 'shmem', '6.1 6.12'],
  ['referenced|uptodate|dirty|lru|active|mmap|swapbacked', 'shmem', '6.1'],
  ['uptodate|lru|active', 'file', '6.1'],
  ['uptodate|lru|tail|thp', 'file', '6.18: large folios'],
  ['uptodate|dirty|lru|private', 'file', '6.1 6.18'],
  ['referenced|lru|active|private', 'file', '6.1 6.18: page cache of a block device'],
  ['referenced|uptodate', 'transient', '6.1'],
  ['referenced|active|private', 'transient', '6.1: taken off the LRU'],
];

describe('classify', () => {
  for (const [flags, kind, where] of SEEN) {
    it(`T1 ${flags === '' ? 'no flag' : flags} is ${kind} (${where})`, () => {
      expect(classify(...word(flags))).toBe(kind);
    });
  }

  it('T1 what refuses a block is recognised before what moves: poison, buddy and PageOffline first of all', () => {
    expect(classify(...word('lru|hwpoison|anon'))).toBe('poisoned');
    expect(classify(...word('buddy|hwpoison'))).toBe('poisoned');
    expect(classify(...word('reserved|anon|lru'))).toBe('reserved');
    expect(classify(...word('nopage|buddy'))).toBe('hole');
  });

  it('T2 the huge zero page is a compound kernel page, though it shows THP (fs/proc/page.c: is_huge_zero_page)', () => {
    expect(classify(...word('head|thp|zero'))).toBe('driver');
    expect(classify(...word('tail|thp|zero'))).toBe('driver');
    expect(classify(...word('head|thp|lru|anon'))).toBe('anonymous');
  });
});

describe('what goes at once', () => {
  it('T3 droppable means clean, unmapped page cache on the LRU, and nothing else', () => {
    expect(isDroppable(word('referenced|uptodate|lru|active')[0])).toBe(true);
    for (const bad of ['anon', 'swapbacked', 'dirty', 'writeback', 'mmap', 'unevictable']) {
      expect(isDroppable(word(`uptodate|lru|${bad}`)[0]), bad).toBe(false);
    }
    expect(isDroppable(word('uptodate')[0]), 'not on the LRU').toBe(false);
  });
});

describe('signs of an extra reference', () => {
  it('T4 an anonymous page that is referenced but not active may be held by get_user_pages', () => {
    expect(pinSign(...word('referenced|uptodate|lru|mmap|anon|swapbacked'))).toBe('user-pin');
    expect(pinSign(...word('referenced|uptodate|lru|mmap|anon|swapbacked|ksm'))).toBe('user-pin');
    for (const not of ['active', 'unevictable', 'thp|head', 'thp|tail']) {
      expect(pinSign(...word(`referenced|uptodate|lru|anon|swapbacked|${not}`)), not).toBeUndefined();
    }
    expect(pinSign(...word('uptodate|lru|mmap|anon|swapbacked')), 'not referenced').toBeUndefined();
  });

  it('T4 a page of a block device that was used again may be held by its file system', () => {
    expect(pinSign(...word('referenced|lru|active|private'))).toBe('block-device');
    expect(pinSign(...word('referenced|dirty|lru|active|private'))).toBe('block-device');
    for (const [flags, why] of [
      ['lru|active|private', 'not used again'],
      ['referenced|lru|private', 'not active'],
      ['referenced|uptodate|lru|active|private', 'wholly up to date: file data has buffers too'],
      ['referenced|lru|active', 'no buffers'],
      ['referenced|lru|active|private|mmap', 'mapped'],
    ] as const) {
      expect(pinSign(...word(flags)), why).toBeUndefined();
    }
  });
});
