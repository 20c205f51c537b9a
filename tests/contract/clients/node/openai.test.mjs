// OpenAI's library for JavaScript. Run by ../test_node.py, which sets the address and the key.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import OpenAI from 'openai'

const { LAMPLIGHTER_URL, LAMPLIGHTER_KEY } = process.env
const make = (apiKey = LAMPLIGHTER_KEY) =>
  new OpenAI({ baseURL: `${LAMPLIGHTER_URL}/v1`, apiKey, maxRetries: 0, timeout: 60_000 })
const client = make()
const messages = [{ role: 'user', content: 'What is the capital of France?' }]

test('chats, whole and streamed', async () => {
  const whole = await client.chat.completions.create({ model: 'small', messages, max_tokens: 12, temperature: 0 })
  assert.match(whole.choices[0].message.content, /Paris/)
  assert.ok(whole.usage.completion_tokens > 0)
  let text = ''
  let usage
  const stream = await client.chat.completions.create({
    model: 'small', messages, max_tokens: 12, temperature: 0, stream: true, stream_options: { include_usage: true },
  })
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? ''
    usage = chunk.usage ?? usage
  }
  assert.equal(text.trim(), whole.choices[0].message.content.trim())
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens)
})

test('responses, whole and streamed', async () => {
  const whole = await client.responses.create({ model: 'small', input: 'Hi', max_output_tokens: 6 })
  assert.ok(whole.output_text)
  const stream = client.responses.stream({ model: 'small', input: 'Hi', max_output_tokens: 6 })
  const kinds = []
  for await (const event of stream) kinds.push(event.type)
  assert.equal(kinds.at(-1), 'response.completed')
  assert.ok((await stream.finalResponse()).usage.output_tokens > 0)
})

test('completions, embeddings, models', async () => {
  assert.ok((await client.completions.create({ model: 'small', prompt: 'The sky is', max_tokens: 4 })).choices[0].text)
  const vectors = await client.embeddings.create({ model: 'small', input: ['cat', 'tax law'] })
  assert.equal(vectors.data.length, 2)
  assert.ok(vectors.data[0].embedding.length > 100)
  const names = []
  for await (const model of client.models.list()) names.push(model.id)
  assert.ok(names.includes('small'))
})

test('errors have its classes', async () => {
  await assert.rejects(make('lk-wrong').models.list(), OpenAI.AuthenticationError)
  await assert.rejects(client.chat.completions.create({ model: 'absent', messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError)
    assert.equal(error.code, 'model_not_found')
    return true
  })
  await assert.rejects(client.chat.completions.create({ model: 'small', messages: [] }), OpenAI.BadRequestError)
})
