// Ollama's library for JavaScript. Run by ../test_node.py, which sets the address and the key.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ollama } from 'ollama'

const { LAMPLIGHTER_URL, LAMPLIGHTER_KEY } = process.env
const make = (key = LAMPLIGHTER_KEY) => new Ollama({ host: LAMPLIGHTER_URL, headers: { authorization: `Bearer ${key}` } })
const client = make()
const messages = [{ role: 'user', content: 'What is the capital of France?' }]
const options = { num_predict: 12, temperature: 0 }

test('chats, whole and streamed', async () => {
  const whole = await client.chat({ model: 'small', messages, options })
  assert.match(whole.message.content, /Paris/)
  let text = ''
  let last
  for await (const part of await client.chat({ model: 'small', messages, options, stream: true })) {
    text += part.message.content
    last = part
  }
  assert.equal(text.trim(), whole.message.content.trim())
  assert.equal(last.done, true)
  assert.ok(last.eval_duration > 0)
})

test('prompts, embeddings, lists', async () => {
  assert.ok((await client.generate({ model: 'small', prompt: 'Hi', options })).response)
  assert.equal((await client.embed({ model: 'small', input: ['a', 'b'] })).embeddings.length, 2)
  assert.ok((await client.list()).models.some((model) => model.name === 'small'))
  assert.ok((await client.show({ model: 'small' })).capabilities.includes('completion'))
  assert.deepEqual((await client.ps()).models.map((model) => model.name), ['small'])
})

test('errors are raised with their words', async () => {
  await assert.rejects(client.chat({ model: 'absent', messages }), /not found/)
  await assert.rejects(make('lk-wrong').list(), /API key/)
  await assert.rejects(client.delete({ model: 'small' }), /lamplighter.yaml/)
})
