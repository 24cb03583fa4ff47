import { describe, expect, test } from 'vitest'

import { numberOption, parseOptions, UsageError, type OptionSpec } from '../../lib/cli/args.js'

const specs: Record<string, OptionSpec> = {
  prompt: { type: 'string', help: '' },
  stop: { type: 'string', multiple: true, help: '' },
  'max-new-tokens': { type: 'string', help: '' },
  json: { type: 'boolean', help: '' },
}

describe('options', () => {
  test('are read', () => {
    const values = parseOptions(['--prompt', '-', '--stop=a', '--stop', 'b', '--json', '--max-new-tokens=3'], specs)
    expect(values).toMatchObject({ prompt: '-', stop: ['a', 'b'], json: true, 'max-new-tokens': '3' })
    expect(parseOptions(['--prompt', '-5 is cold'], specs).prompt).toBe('-5 is cold')
    expect(parseOptions(['--prompt='], specs).prompt).toBe('')
  })

  const wrong: [string[], string][] = [
    [['--promt', 'x'], 'unknown option --promt; did you mean --prompt?'],
    [['--max', '3'], 'unknown option --max; did you mean --max-new-tokens?'],
    [['--zzzzzz'], 'unknown option --zzzzzz'],
    [['--toString'], 'unknown option --toString'],
    [['-j'], 'unknown option -j'],
    [['--prompt'], '--prompt: expected a value'],
    [['--prompt', '--json'], '--prompt: expected a value, got the option --json'],
    [['--prompt', 'a', '--prompt', 'b'], '--prompt: given twice'],
    [['--json=yes'], '--json: takes no value'],
    [['word'], "unexpected argument 'word'"],
    [['--', 'word'], "unexpected argument 'word'"],
  ]
  test.each(wrong)('%j is a mistake', (args, message) => {
    expect(() => parseOptions(args, specs)).toThrow(UsageError)
    expect(() => parseOptions(args, specs)).toThrow(message)
  })

  test('numbers', () => {
    expect(numberOption({ n: '12' }, 'n', 'whole')).toBe(12)
    expect(['.5', '1.5', '1e-3', '0'].map((n) => numberOption({ n }, 'n', 'number'))).toEqual([0.5, 1.5, 0.001, 0])
    expect(numberOption({}, 'n', 'whole')).toBeUndefined()
    for (const n of ['1.5', '-1', '', 'x', '1e3', ' 1'])
      expect(() => numberOption({ n }, 'n', 'whole')).toThrow('a whole number')
    for (const n of ['-1', '', '.', 'NaN', '1e'])
      expect(() => numberOption({ n }, 'n', 'number')).toThrow('a number from 0 on')
  })
})
