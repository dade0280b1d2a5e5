"""S1, S2, S3: what makes a job slow. Columns of events (`grid`), rounds with who came late and how long the transfer took
(`timing`), what each rank and group costs a step (`account`), who stands out (`excess`), which link bounds (`links`),
whom the machine kept waiting (`processor`), and the incident with its end (`detector`).

Shapes: N records, S slots (a rank in a group), C columns (recent rounds), R rounds, M their members, T steps.
"""
