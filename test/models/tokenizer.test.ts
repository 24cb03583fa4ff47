import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'

import type { TextTokenizer } from '../../lib/models/tokenizer.js'
import { loadTokenizer } from '../../lib/models/tokenizer.js'

let tokenizer: TextTokenizer
beforeAll(async () => {
  tokenizer = (await loadTokenizer('test/fixtures/kjv-mamba'))!
})

const bytesOf = (text: string) => [...new TextEncoder().encode(text)]
const textOf = (bytes: number[]) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes))

describe('the byte-level tokenizer of the fixture', () => {
  test('an id is a byte', () => {
    expect(tokenizer.encode('In the beginning God ')).toEqual(bytesOf('In the beginning God '))
    expect(tokenizer.encode('')).toEqual([])
    expect(tokenizer.decode([])).toBe('')
    const all = Array.from({ length: 128 }, (_, i) => i)
    expect(tokenizer.decode(all)).toBe(textOf(all))
  })

  test('any text goes there and back', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
        const ids = tokenizer.encode(text)
        expect(ids).toEqual(bytesOf(text))
        expect(tokenizer.decode(ids)).toBe(text)
      }),
      { numRuns: 500 },
    )
  })

  test('spaces and marks stay as they are', () => {
    for (const text of ["do n't , he 's . \n\n  two", '\uFEFFmark', ' \t', 'a\u0000b', '👩‍👩‍👧‍👦 ñ 漢']) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
    }
  })

  test('bytes that are no UTF-8 give U+FFFD', () => {
    expect(tokenizer.decode([0x41, 0xff, 0x42])).toBe('A\uFFFDB')
  })

  test('what is no text is an error', () => {
    expect(() => tokenizer.encode(3 as unknown as string)).toThrow(expect.objectContaining({ code: 'ERR_OPTION' }))
  })
})

describe('decoding a stream', () => {
  test('holds back a character until its bytes are there', () => {
    const decoder = tokenizer.stream()
    expect(bytesOf('aé€').map((id) => decoder.push(id))).toEqual(['a', '', 'é', '', '', '€'])
    expect(decoder.flush()).toBe('')
    expect(decoder.push(0xe2)).toBe('')
    expect(decoder.flush()).toBe('\uFFFD')
    expect(decoder.push(0x41)).toBe('A')
  })

  test('gives, put together, what decoding at once gives: text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 100 }), (text) => {
        const decoder = tokenizer.stream()
        const pieces = tokenizer.encode(text).map((id) => decoder.push(id))
        expect(pieces.join('') + decoder.flush()).toBe(text)
      }),
    )
  })

  test('gives, put together, what decoding at once gives: any bytes', () => {
    const some = fc.oneof(fc.nat(255), fc.constantFrom(0xff, 0xe2, 0x82, 0xac, 0xf0, 0x9f))
    fc.assert(
      fc.property(fc.array(some, { maxLength: 300 }), (bytes) => {
        const decoder = tokenizer.stream()
        expect(bytes.map((id) => decoder.push(id)).join('') + decoder.flush()).toBe(textOf(bytes))
      }),
      { numRuns: 300 },
    )
    const decoder = tokenizer.stream()
    const stray = [...new Array<number>(100).fill(0xff), ...bytesOf('€ and on')]
    expect(stray.map((id) => decoder.push(id)).join('') + decoder.flush()).toBe(textOf(stray))
  })
})

test('a directory without a tokenizer has none', async () => {
  expect(await loadTokenizer('test/fixtures/models/mamba')).toBeUndefined()
})
