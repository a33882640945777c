package imagerules

violation contains {"msg": c.name} if {
	some c in input.review.object.spec.template.spec.containers
	fact := data.inventory.cluster["bench.assay.dev/v1"].ImageFacts.fleet.images[c.image]
	first := min([i | some i, rule in input.parameters.rules; matches(rule, c.image, fact)])
	input.parameters.rules[first].action == "Reject"
}

matches(rule, image, fact) if {
	has_result(rule, fact)
	is_before(rule, fact)
	regex.match(rule.pattern, image)
}

has_result(rule, _) if not rule.results

has_result(rule, fact) if fact.result in rule.results

is_before(rule, _) if not rule.before

is_before(rule, fact) if fact.scanned_at < rule.before
